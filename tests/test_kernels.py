"""The GPU's kernels, run on a CPU by Triton's interpreter."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent / "kernels_check.py"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed; CI has it")
@pytest.mark.parametrize(
    ("dtype", "width", "heads", "kv_heads", "limit"),
    [
        ("float32", 8, 4, 4, 1e-5),
        ("float32", 24, 6, 2, 1e-5),
        ("float16", 16, 4, 1, 5e-3),
    ],
)
def test_kernels_give_the_logits_of_plain_pytorch(dtype, width, heads, kv_heads, limit):
    command = [sys.executable, str(CHECK), dtype, *map(str, (width, heads, kv_heads))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
    assert float(done.stdout) < limit
