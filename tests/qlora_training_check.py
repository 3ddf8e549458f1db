"""Trains a tiny base in 4 bits, whole and interrupted; run in an interpreter of its own, as `qlora_check.py`."""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit  # before gonbuild, which hides it where there is no GPU
from safetensors.torch import load_file
from tiny import write_tiny_base

from gonbuild.adapter import attach_adapter
from gonbuild.base import BaseFiles
from gonbuild.engine import generate
from gonbuild.model import load_base
from gonbuild.preferring import prefer
from gonbuild.records import Marked, Pair, Preferences, Prompt, Request, Row
from gonbuild.settings import AdapterSettings, ModelSettings, SamplingSettings
from gonbuild.trainer import Journal
from gonbuild.training import train_adapter

PROMPT = "<|user|>\nTên thẻ: {}\nHiệu ứng: +2 điểm cho Sông<|end|>\n<|assistant|>\n"
ROWS = [Row(f"card-{n}", PROMPT.format(n), f"Cá bơi về lần {n}, Sông thêm 2 điểm.<|end|>") for n in range(10)]
SETTINGS = AdapterSettings(
    rank=4, alpha=8, batch_size=4, epochs=2.0, dropout=0.1, last_layers=0, gradient_checkpointing=True
)

MARKS = Preferences(
    tuple(Pair("a", row.prompt, row.completion, "Sông được 2 điểm.<|end|>") for row in ROWS),
    tuple(Marked("a", row.prompt, row.completion, n % 2 == 0) for n, row in enumerate(ROWS)),
)


def stop(what, done, _total, *_):
    if what == "training" and done == 5:
        raise KeyboardInterrupt


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


folder = Path(tempfile.mkdtemp())
files = BaseFiles("tiny", write_tiny_base(folder / "tiny", width=64))
model = ModelSettings(dtype="bfloat16", quantization="nf4")
base = load_base(files, model, threads=1)
assert base.quantized
whole, lost, resumed = (folder / name for name in ("whole", "lost", "resumed"))
wanted = train_adapter(base, ROWS, SETTINGS, whole)
assert not hasattr(base.model, "peft_config")
try:
    train_adapter(base, ROWS, SETTINGS, lost, stop, Journal(folder / "work", every=2))
    sys.exit("was not interrupted")
except KeyboardInterrupt:
    pass
found = train_adapter(base, ROWS, SETTINGS, resumed, journal=Journal(folder / "work", every=2))
assert [step for step, _ in found.losses] == list(range(1, 7))
assert found.losses == wanted.losses, (found.losses, wanted.losses)
assert weights(resumed) == weights(whole)

request = Request("card-1", Prompt(ROWS[1].prompt, PROMPT), 0, 3)


def drawn(adapted):
    ((_, candidates),) = generate(adapted, [request], SamplingSettings(max_new_tokens=12))
    assert len(candidates) == 3
    return candidates


merged = attach_adapter(base, whole)
assert not merged.quantized
assert base.quantized
layer, full = (b.model.model.layers[0].mlp.up_proj for b in (base, merged))
assert type(full) is torch.nn.Linear
assert full.weight.dtype == torch.bfloat16
found = load_file(whole / "adapter_model.safetensors")
a, b = (found[f"base_model.model.model.layers.0.mlp.up_proj.lora_{x}.weight"].float() for x in "AB")
weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float() + SETTINGS.alpha / SETTINGS.rank * b @ a
assert (full.weight.float() - weight).abs().max() < 0.01 * weight.abs().max()
assert drawn(merged) == drawn(attach_adapter(base, whole))
assert not hasattr(base.model, "peft_config")
carried = attach_adapter(base, whole, merged=False)
assert carried.quantized
drawn(carried)
for method in ("dpo", "kto"):
    learn = SETTINGS.model_copy(update={"method": method, "preference_learning_rate": 0.01})
    copies = [shutil.copytree(whole, folder / f"{method}-{n}") for n in range(2)]
    losses = [prefer(base, MARKS, learn, copy).losses for copy in copies]
    assert losses[0] == losses[1]
    assert losses[0][-1][1] < losses[0][0][1]
    assert weights(copies[0]) == weights(copies[1]) != weights(whole)
    kinds = {tensor.dtype for tensor in load_file(copies[0] / "adapter_model.safetensors").values()}
    assert kinds == {torch.bfloat16}
    assert not hasattr(base.model, "peft_config")
print("same")
