"""Compares a LoRA layer over a 4-bit weight with PEFT's own, outputs and gradients; run in an interpreter of its own,
since gonbuild hides bitsandbytes from PEFT where there is no GPU. Prints the largest relative difference.
"""

import sys

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from torch import nn

from gonbuild.qlora import compute_together


class Model(nn.Module):
    def __init__(self, double: bool):
        super().__init__()
        self.first = Linear4bit(
            96, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=double
        )
        self.second = Linear4bit(
            128, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=double
        )

        self.third = Linear4bit(
            64, 64, bias=True, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=double
        )

    def forward(self, x):
        return self.third(self.second(torch.tanh(self.first(x))))


def gradients(model, x, seed):
    x = x.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(seed)
    out = model(x)
    out.pow(2).sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


worst = 0.0
for double in (False, True):
    torch.manual_seed(0)
    model = Model(double).to("cpu")
    config = LoraConfig(r=8, lora_alpha=5, lora_dropout=float(sys.argv[1]), target_modules=["first", "second", "third"])
    theirs = get_peft_model(model, config).train()
    for name, p in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.1)
    x = torch.randn(3, 40, 96)
    wanted = gradients(theirs, x, 1)
    compute_together(theirs)
    found = gradients(theirs, x, 1)
    assert len(found) == 8
    assert all(tensor.isfinite().all() for tensor in found)
    worst = max([worst, *(float((a - b).norm() / a.norm()) for a, b in zip(wanted, found, strict=True))])
print(worst)
