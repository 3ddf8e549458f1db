"""A LoRA layer over a 4-bit weight, computed together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from gonbuild.qlora import Kind, compute_together

CHECK = Path(__file__).parent / "qlora_check.py"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_are_those_of_peft(dropout):
    done = subprocess.run(
        [sys.executable, CHECK, str(dropout)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.splitlines()[-1]) < 1e-5  # not the same sums in the same order


class Whole(nn.Linear):
    """A layer whose weight is held whole, where a real one holds it in 4 bits."""


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("grad", [True, False])
def test_gradients_over_any_weight_are_those_of_peft(dropout, grad):
    torch.manual_seed(0)
    model = nn.Sequential(
        Whole(24, 32, bias=False), nn.Tanh(), Whole(32, 16, bias=False), Whole(16, 16), nn.Linear(16, 8)
    )
    targets = ["0", "2", "3", "4"]
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=5, lora_dropout=dropout, target_modules=targets)).train()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    x = torch.randn(3, 10, 24, requires_grad=grad)

    def gradients():
        adapted.zero_grad()
        x.grad = None
        torch.manual_seed(1)
        out = adapted(x)
        out.pow(2).sum().backward()
        return [out.detach(), *(p.grad for p in (x, *adapted.parameters()) if p.requires_grad)]

    wanted = gradients()
    compute_together(adapted, Kind(Whole, lambda weight: weight.data))
    layers = [m for m in adapted.modules() if isinstance(m, LoraLayer)]
    assert ["forward" in vars(layer) for layer in layers] == [True, True, False, False]
    found = gradients()
    assert len(found) == 9 + grad
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(b, a)


def test_training_in_4_bits_goes_on_from_a_checkpoint_to_the_same_adapter_and_draws_with_it():
    script = CHECK.with_name("qlora_training_check.py")
    environ = {**os.environ, "PYTHONPATH": f"{CHECK.parent}{os.pathsep}{CHECK.parent.parent}"}
    done = subprocess.run(
        [sys.executable, script], env=environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "same"
