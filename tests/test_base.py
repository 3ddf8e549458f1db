"""Where a base lies and what identifies it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny import write_tiny_base

from gonbuild.base import identity_inputs, is_whole, locate_base
from gonbuild.errors import InputError
from gonbuild.models import Models
from gonbuild.settings import ModelSettings, parse_settings
from gonbuild.store import Store

COMMIT = "27d67f1b5f57dc0953326b2601d68371d40ea8da"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_base(tmp_path / "bases" / "small")


def located(folder: Path):
    return locate_base(ModelSettings(base=str(folder)), folder.parent)


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_nano_is_the_embedded_folder_and_whole():
    files = locate_base(ModelSettings(), Path("anywhere"))
    assert (files.name, files.folder.name, is_whole(files.folder)) == ("nano", "nano", True)


def test_relative_folder_is_taken_from_the_project(folder):
    files = locate_base(ModelSettings(base="bases/small"), folder.parent.parent)
    assert (files.name, files.folder) == ("small", folder)


def test_identity_is_the_same_elsewhere_and_at_another_time(folder, tmp_path):
    before = located(folder).identity
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "config.json", (1, 1))
    assert located(tmp_path / "copy").identity == before
    assert len(before) == 64


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_one_byte_more_is_another_identity(folder, name):
    before = located(folder).identity
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert located(folder).identity != before


def test_files_beside_the_model_do_not_count(folder):
    before = located(folder).identity, identity_inputs(folder)
    (folder / "README.md").write_text("a model")
    (folder / "held-out.txt").write_text("names")
    assert (located(folder).identity, identity_inputs(folder)) == before


def test_identity_inputs_move_with_size_and_time(folder):
    before = identity_inputs(folder)
    assert [Path(name).name for name, _, _ in before] == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    os.utime(folder / "model.safetensors", ns=(1, 1))
    after = identity_inputs(folder)
    assert [a[2] == b[2] for a, b in zip(before, after, strict=True)] == [True, False, True, True]


def test_hub_base_is_identified_by_name_and_commit(tmp_path):
    files = locate_base(ModelSettings(base="mistralai/Mistral-7B-v0.1", revision=COMMIT), tmp_path)
    assert (files.folder, files.identity) == (None, f"hub:mistralai/Mistral-7B-v0.1@{COMMIT}")
    settings = parse_settings({"model": {"base": files.name, "revision": COMMIT}})
    assert Models(tmp_path, settings, Store(tmp_path / "cache")).identity() == files.identity


@pytest.mark.parametrize("revision", ["", "main", COMMIT[:12]])
def test_hub_base_wants_a_whole_commit(tmp_path, revision):
    with pytest.raises(InputError, match="Set model.revision to a commit of 40 hex digits"):
        locate_base(ModelSettings(base="mistralai/Mistral-7B-v0.1", revision=revision), tmp_path)


@pytest.mark.parametrize("base", ["mistral", "./bases/gone", "/bases/gone", "a/b/c"])
def test_missing_folder_is_named(tmp_path, base):
    with pytest.raises(InputError, match=f"model.base '{base}' is no folder here"):
        locate_base(ModelSettings(base=base, revision=COMMIT), tmp_path)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds pickled weights \(\*.bin\) alone"):
        located(folder)


def test_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="has no readable config.json"):
        located(folder)


@pytest.mark.parametrize("text", ["{", "[]", "3", "\xff"])
def test_config_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="has no readable config.json. Wanted a folder that `save_pretrained` wrote"):
        located(folder)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_broken_index_is_named(folder, index):
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"small: the base has no readable model.safetensors.index.json"):
        located(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 3, None])
def test_index_that_names_a_file_elsewhere_is_refused(folder, shard):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(InputError, match=f"small: the base lacks {shard}"):
        located(folder)


def test_gguf_alone_is_refused(folder):
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "mistral-7b.Q4_K_M.gguf")
    with pytest.raises(InputError, match="holds GGUF weights alone, from which nothing can be trained"):
        located(folder)


def test_encoder_with_decoder_is_refused(folder):
    edit_config(folder, is_encoder_decoder=True)
    with pytest.raises(InputError, match="is no causal language model: its config.json names MistralForCausalLM"):
        located(folder)


@pytest.mark.parametrize("architectures", [["BertModel"], [], None, "MistralForCausalLM", 3])
def test_base_that_is_no_causal_language_model_is_refused(folder, architectures):
    edit_config(folder, architectures=architectures)
    with pytest.raises(InputError, match="is no causal language model"):
        located(folder)


def test_base_with_code_of_its_own_is_refused(folder):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(InputError, match="wants code of its own"):
        located(folder)


def test_missing_shard_is_named(folder):
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    with pytest.raises(InputError, match="lacks model-2-of-2.safetensors"):
        located(folder)


def test_git_lfs_pointer_is_no_weight(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError, match="holds Git LFS pointers in place of model.safetensors"):
        located(folder)


def test_folder_without_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="has no tokenizer.json"):
        located(folder)
