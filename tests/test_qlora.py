"""A LoRA layer over a 4-bit weight, computed together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent / "qlora_check.py"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_are_those_of_peft(dropout):
    done = subprocess.run(
        [sys.executable, CHECK, str(dropout)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.splitlines()[-1]) < 1e-5  # not the same sums in the same order


def test_training_in_4_bits_goes_on_from_a_checkpoint_to_the_same_adapter_and_draws_with_it():
    script = CHECK.with_name("qlora_training_check.py")
    environ = {**os.environ, "PYTHONPATH": f"{CHECK.parent}{os.pathsep}{CHECK.parent.parent}"}
    done = subprocess.run(
        [sys.executable, script], env=environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "same"
