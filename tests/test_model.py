"""Loading a base, and what a machine lacks for one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import write_tiny_base
from tokenizers import Tokenizer, models

from gonbuild.base import BaseFiles, locate_base
from gonbuild.errors import InputError, MachineError
from gonbuild.machine import Machine, describe_hardware, describe_machine, drawing_is_exact, training_is_exact
from gonbuild.memory import KNOWN, Need, Part
from gonbuild.model import load_base, load_reader, missing_for, model_options, shape_of
from gonbuild.records import Row
from gonbuild.settings import ModelSettings, parse_settings

MISTRAL = parse_settings({"profile": "mistral-7b"}).model
HUB = BaseFiles(MISTRAL.base, None, MISTRAL.revision)
BIG = Machine(memory_gib=64, gpu_gib=80, bitsandbytes=True, hub_has=lambda name, revision: True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_base(tmp_path / "small")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def load(folder: Path, threads: int = 1, machine: Machine = BIG):
    settings = ModelSettings(base=str(folder))
    return load_base(locate_base(settings, folder), settings, threads, machine)


def edit_tokenizer(folder: Path, **values: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | values).items() if v is not None}))


def test_base_is_loaded_in_float32_and_frozen_without_a_word(folder, capfd):
    base = load(folder)
    assert (base.dtype, base.device.type, base.context, base.quantized) == (torch.float32, "cpu", 1024, False)
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert capfd.readouterr() == ("", "")


def test_threads_are_those_of_the_setting(folder):
    load(folder, threads=2)
    assert torch.get_num_threads() == 2


def test_no_threads_set_takes_four_at_most(folder):
    load(folder, threads=0)
    assert 1 <= torch.get_num_threads() <= 4


def test_row_is_split_where_its_completion_starts(folder):
    base = load(folder)
    row = Row("a", "<|user|>\nThẻ<|end|>\n<|assistant|>\n", "Cá bơi về.<|end|>")
    ids, start = base.encode_row(row)
    assert base.tokenizer.decode(ids[:start]) == row.prompt
    assert base.tokenizer.decode(ids[start:]) == row.completion
    assert base.encode(row.prompt) == ids[:start]


def test_eos_follows_an_end_tag_that_is_not_the_eos(folder):
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8").replace("<|end|>", "</s>")
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    edit_tokenizer(folder, eos_token="</s>")
    base = load(folder)
    ids, start = base.encode_row(Row("a", "Thẻ\n", "Cá.<|end|>"))
    assert base.tokenizer.decode(ids[start:]) == "Cá.<|end|></s>"


def test_pad_falls_back_to_eos(folder):
    edit_tokenizer(folder, pad_token=None)
    assert load(folder).tokenizer.pad_token == "<|end|>"


def test_tokenizer_without_eos_is_refused(folder):
    edit_tokenizer(folder, eos_token=None)
    with pytest.raises(InputError, match="its tokenizer has no eos token"):
        load(folder)


def test_damaged_weights_are_an_input_error(folder):
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(InputError, match="the base cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("norm", [None, torch.ones(7)])
def test_base_with_a_tensor_missing_or_misshapen_is_refused(folder, norm):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    if norm is not None:
        tensors["model.norm.weight"] = norm
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="1 of the base's tensors are missing or of another shape, model.norm.weight"):
        load(folder)


NANO = BaseFiles("nano", Path())
NEED = Need("training", (Part("weights", 3.9), Part("adapter", 1.9, "adapter.rank"), Part("work space", 0.3)))
LACKS = [
    (BIG, MISTRAL, HUB, []),
    (replace(BIG, gpu_gib=None), MISTRAL, HUB, ["no CUDA device (training needs a GPU with 6.1 GiB)"]),
    (replace(BIG, gpu_gib=6.2, memory_gib=1), MISTRAL, HUB, []),
    (
        replace(BIG, gpu_gib=3.14), MISTRAL, HUB,
        [
            "the GPU has 3.1 GiB free, and training needs about 6.1 (3.9 weights, 1.9 adapter, 0.3 work space): "
            "lower adapter.rank"
        ],
    ),
    (replace(BIG, bitsandbytes=False), MISTRAL, HUB, ["bitsandbytes is not installed"]),
    (
        replace(BIG, hub_has=lambda name, revision: False), MISTRAL, HUB,
        ["mistralai/Mistral-7B-v0.1 is neither in the local hub cache nor reachable"],
    ),
    (
        replace(BIG, memory_gib=0.5), ModelSettings(), NANO,
        [
            "memory has 0.5 GiB free, and training needs about 6.1 (3.9 weights, 1.9 adapter, 0.3 work space): "
            "lower adapter.rank"
        ],
    ),
    (replace(BIG, gpu_gib=None, bitsandbytes=False), ModelSettings(), NANO, []),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "settings", "files", "wanted"), LACKS)
def test_what_a_machine_lacks_is_said(machine, settings, files, wanted):
    assert missing_for(settings, files, machine, NEED) == wanted


def test_no_need_checks_no_memory():
    assert missing_for(ModelSettings(), NANO, replace(BIG, memory_gib=0.01)) == []


def test_base_that_is_not_here_yet_has_the_shape_that_is_known(folder):
    assert shape_of(HUB) is KNOWN[MISTRAL.base]
    assert shape_of(BaseFiles("some/other", None, MISTRAL.revision)) is None
    tiny = shape_of(BaseFiles("small", folder))
    assert tiny is not None
    assert (tiny.hidden, tiny.layers, tiny.tied) == (32, 2, True)


def edit(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "'bert' is no causal language model"),
        ({"model_type": "vit"}, "'vit' is no causal language model"),
        ({"model_type": "nothing-known"}, "the base cannot be loaded: .*nothing-known"),
        ({"num_hidden_layers": "two"}, "the base cannot be loaded: "),
    ],
)
def test_base_that_is_no_causal_language_model_is_refused_before_its_weights(folder, change, says):
    edit(folder, "config.json", **change)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=says):
        load_reader(BaseFiles("small", folder), folder)


def test_tokenizer_larger_than_the_embedding_is_refused_before_the_weights(folder):
    (folder / "model.safetensors").unlink()
    edit(folder, "config.json", vocab_size=400)
    what = r"small: its tokenizer gives ids up to 469 \('.+'\), and the model has 400 embeddings. Wanted the tokenizer"
    with pytest.raises(InputError, match=what):
        load_reader(BaseFiles("small", folder), folder)


def test_eos_that_no_embedding_is_for_is_refused(folder):
    edit_tokenizer(folder, eos_token="<|never seen|>")
    with pytest.raises(InputError, match=r"gives ids up to 470 \('<\|never seen\|>'\), and the model has 470"):
        load(folder)


def test_tags_that_are_unknown_words_are_refused(folder):
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "a": 2}, unk_token="[UNK]"))
    core.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"its tokenizer cannot tell <\|system\|>, .* apart"):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}'])
def test_damaged_tokenizer_is_an_input_error(folder, name, text):
    if (name, text) == ("tokenizer_config.json", '{"version": 1}'):
        wanted = "its tokenizer has no eos token"
    else:
        wanted = "the base cannot be loaded: "
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=f"small: {wanted}"):
        load(folder)


def test_hardware_is_told_for_the_record():
    told = describe_hardware("cpu")
    assert told["devices"] == 1
    assert told["device"] == told["processor"]
    assert told["threads"] == torch.get_num_threads()


def test_machine_error_is_one_line_with_all_that_is_missing_and_the_profile_that_works():
    with pytest.raises(MachineError, match="no CUDA device.*bitsandbytes is not.*reachable") as caught:
        load_base(HUB, MISTRAL, 1, Machine(8, None, False, lambda name, revision: False))
    assert str(caught.value).endswith('profile = "nano" works on any machine.')
    assert "\n" not in str(caught.value)


def test_profile_decides_how_weights_are_loaded():
    options = model_options(MISTRAL)
    nf4 = options.pop("quantization_config")
    assert options == model_options(ModelSettings()) | {"dtype": torch.bfloat16, "device_map": {"": 0}}
    assert (nf4.load_in_4bit, nf4.bnb_4bit_quant_type, nf4.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert nf4.bnb_4bit_compute_dtype == torch.bfloat16
    assert options["use_safetensors"]
    assert not options["trust_remote_code"]


@pytest.mark.parametrize("exact", [training_is_exact, drawing_is_exact])
def test_self_test_answers_the_same_twice_and_leaves_the_threads(exact):
    torch.set_num_threads(2)
    assert exact() is exact()
    assert torch.get_num_threads() == 2


def test_gpu_without_what_builds_kernels_is_refused():
    bare = Machine(64, 80, True, lambda name, revision: True, kernels=False)
    (missing,) = missing_for(MISTRAL, HUB, bare)
    assert missing == "Triton or a C compiler (cc) is not installed, which draw on a GPU"


def test_family_that_the_engine_does_not_know_is_refused(tmp_path):
    folder = write_tiny_base(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gemma"}))
    with pytest.raises(InputError, match="can be drawn from llama, mistral, qwen2 or qwen3, not from 'gemma'"):
        load_reader(BaseFiles("tiny", folder), folder)


def test_sliding_window_bounds_the_context(tmp_path):
    folder = write_tiny_base(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 256}))
    assert load_reader(BaseFiles("tiny", folder), folder).context == 256


def test_machine_is_described_in_words():
    facts = describe_machine()
    assert facts["torch"] == torch.__version__
    assert int(facts["cores usable"]) >= 1
    assert facts["same draws"].split(":")[0] in ("yes", "no")
    assert all(isinstance(value, str) and value for value in facts.values())


@pytest.mark.parametrize("module", ["machine", "model", "adapter", "engine", "evaluate"])
def test_environment_is_set_before_the_first_heavy_library(module):
    """A finder in a fresh interpreter stops at the first of them and prints what it would have read."""
    script = f"""
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "huggingface_hub", "tokenizers", "peft", "trl", "datasets"):
            print(name, os.environ.get("MKL_CBWR"), os.environ.get("HF_HUB_DISABLE_TELEMETRY"))
            sys.stdout.flush(); os._exit(0)
sys.meta_path.insert(0, Finder())
import gonbuild.{module}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "torch AVX2,STRICT 1\n"
