"""What export writes is read by stock libraries, in processes that know nothing of gonbuild."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import write_tiny_base
from tokenizers import Tokenizer, processors

from gonbuild.adapter import attach_adapter, merge_adapter
from gonbuild.base import BaseFiles, locate_base
from gonbuild.errors import InputError, MachineError
from gonbuild.export import write_adapter, write_model
from gonbuild.model import load_base
from gonbuild.models import Models
from gonbuild.pipeline import Project
from gonbuild.prompts import load_templates
from gonbuild.records import Card
from gonbuild.settings import ModelSettings, load_settings
from gonbuild.store import Store

REPOSITORY = Path(__file__).parent.parent
TEMPLATES = load_templates(REPOSITORY)
CHAT = (REPOSITORY / "templates/chat.jinja").read_text(encoding="utf-8")
IDS = [[2, 300, 301, 17, 45, 4]]
STOCK = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, ids, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
if adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, adapter)
AutoTokenizer.from_pretrained(base)
assert "gonbuild" not in sys.modules
with torch.no_grad():
    torch.save(model.eval()(torch.tensor(json.loads(ids))).logits, out)
"""


def stock_logits(tmp_path: Path, base: Path, adapter: Path | str = "") -> torch.Tensor:
    """Logits as a fresh process with stock transformers and peft gives them, away from this repository."""
    out = tmp_path / "logits.pt"
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STOCK, str(base), str(adapter), json.dumps(IDS), str(out)]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(out)


def logits(base) -> torch.Tensor:
    with torch.no_grad():
        return base.model(torch.tensor(IDS)).logits


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The small project on a tiny base of its own, its adapter trained by the real models."""
    from fakes import make_project

    root = tmp_path_factory.mktemp("game")
    base = write_tiny_base(tmp_path_factory.mktemp("bases") / "small")
    settings = f'[tool.gonbuild.model]\nbase = "{base}"\n[tool.gonbuild.adapter]\nlast_layers = 0\nepochs = 3.0\n'
    settings += "[tool.gonbuild.machine]\nthreads = 1\n"
    make_project(root, settings=settings)
    project = Project(root, load_settings(root), Store(root / "build/cache"))
    project.train()
    return project


@pytest.fixture(scope="module")
def base_folder(project) -> Path:
    return Path(project.settings.model.base)


def load(folder: Path):
    settings = ModelSettings(base=str(folder))
    return load_base(locate_base(settings, folder), settings, threads=1)


def test_adapter_of_the_store_and_exported_gives_stock_peft_the_same_logits(project, base_folder, tmp_path):
    stored = project.train()
    project.export("adapter", tmp_path / "out")
    ours = logits(attach_adapter(load(base_folder), stored))
    assert not torch.allclose(ours, logits(load(base_folder)), atol=1e-2)
    for folder in (stored, tmp_path / "out"):
        theirs = stock_logits(tmp_path, base_folder, folder)
        assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()
    assert sorted(bytes_of(tmp_path / "out")) == [
        "adapter_config.json", "adapter_model.safetensors", "training.json"
    ]  # fmt: skip


def test_merged_folder_is_a_stock_model_with_the_adapters_logits(project, base_folder, tmp_path):
    project.export("adapter", tmp_path / "merged", merged=True)
    ours = logits(attach_adapter(load(base_folder), project.train()))
    theirs = stock_logits(tmp_path, tmp_path / "merged")
    assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()


@pytest.mark.parametrize("what", [("adapter", False), ("adapter", True), ("base", False)])
def test_export_writes_the_same_bytes_each_time_and_no_path_or_pickle(project, tmp_path, what):
    kind, merged = what
    for name in ("a", "b"):
        project.export(kind, tmp_path / name, merged=merged)
    files = bytes_of(tmp_path / "a")
    assert files == bytes_of(tmp_path / "b")
    assert {Path(name).suffix for name in files} <= {".json", ".jinja", ".safetensors"}
    for name, data in files.items():
        if name != "training.json":  # which says the machine, on purpose, and no path either
            assert b"weight_storage" not in data, name
        assert str(tmp_path.parent).encode() not in data, name
        assert project.settings.model.base.encode() not in data, name
    assert {path.stat().st_mode & 0o044 for path in (tmp_path / "a").iterdir()} == {0o044}


def test_base_of_nano_is_written_in_the_stock_format(tmp_path):
    models = Models(REPOSITORY, load_settings(REPOSITORY, "nano"), Store(tmp_path / "cache"))
    (tmp_path / "nano").mkdir()
    models.write_model(None, tmp_path / "nano", TEMPLATES, CHAT)
    settings = ModelSettings()
    ours = logits(load_base(locate_base(settings, REPOSITORY), settings, threads=1))
    theirs = stock_logits(tmp_path, tmp_path / "nano")
    assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()


@pytest.mark.parametrize("bos", [False, True], ids=["without bos", "with bos"])
def test_chat_template_gives_the_tokens_that_the_adapter_was_trained_on(tmp_path, bos):
    folder = write_tiny_base(tmp_path / "small")
    if bos:
        core = Tokenizer.from_file(str(folder / "tokenizer.json"))
        core.post_processor = processors.TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 0)])
        core.save(str(folder / "tokenizer.json"))
        told = json.loads((folder / "tokenizer_config.json").read_text()) | {"bos_token": "<|pad|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
    base = load(folder)
    (tmp_path / "out").mkdir()
    write_model(base, tmp_path / "out", TEMPLATES, CHAT)
    card = Card("a", "Vớt Rác", "Bảo Vệ", "+2 điểm cho Sông")
    turns = [("system", TEMPLATES.system), ("user", "Tên thẻ: Vớt Rác\nLoại: Bảo Vệ\nHiệu ứng: +2 điểm cho Sông")]
    messages = [{"role": role, "content": content} for role, content in turns]
    tokenizer = load(tmp_path / "out").tokenizer
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert found == base.encode(TEMPLATES.prompt(card).text)
    assert (found[0] == 0) is bos


def test_chat_template_that_transformers_would_change_is_refused(tmp_path):
    base = load(write_tiny_base(tmp_path / "small"))
    changed = CHAT.replace("<|end|>\n{% endfor", "<|end|>{% if true %}\n{% endif %}{% endfor")
    with pytest.raises(InputError, match=r"templates/chat.jinja: gives another text in transformers"):
        write_model(base, tmp_path / "out", load_changed(tmp_path, changed), changed)


def load_changed(tmp_path: Path, chat: str):
    import shutil

    shutil.copytree(REPOSITORY / "templates", tmp_path / "templates")
    (tmp_path / "templates/chat.jinja").write_text(chat, encoding="utf-8")
    return load_templates(tmp_path)


def test_adapter_of_a_hub_base_names_its_commit(project, tmp_path):
    commit = "27d67f1b5f57dc0953326b2601d68371d40ea8da"
    write_adapter(project.train(), BaseFiles("mistralai/Mistral-7B-v0.1", None, commit), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == commit


def test_target_that_is_there_stays_as_it_is(project, tmp_path):
    (tmp_path / "out").mkdir()
    for what in ("adapter", "base"):
        with pytest.raises(InputError, match="out: is there already. Name a path that is free"):
            project.export(what, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_failed_export_leaves_nothing(project, tmp_path):
    (tmp_path / "small").mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path / "small")], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        with pytest.raises(MachineError, match="small/out: cannot be written: the disk is full"):
            project.export("base", tmp_path / "small" / "out")
        assert list((tmp_path / "small").iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_adapter_with_no_numbers_is_not_merged(project, base_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in project.train().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors[min(tensors)].fill_(float("nan"))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="the adapter cannot be merged: NaNs detected"):
        merge_adapter(load(base_folder), tmp_path)


def test_training_is_recorded_with_versions_seed_curve_and_hardware(project):
    told = json.loads((project.train() / "training.json").read_text())
    assert told["data"]["rows"] == 3
    assert told["seed"] == 0
    assert len(told["losses"]) == 3
    assert told["versions"]["torch"] == torch.__version__
    assert {"device", "devices", "processor", "threads", "system", "python"} <= told["hardware"].keys()
    assert told["hardware"]["devices"] == 1
    manifest = json.loads((project.train() / "manifest.json").read_text())
    assert manifest["inputs"]["adapter"]["rank"] == 16
    assert len(manifest["files"]["adapter_model.safetensors"]["sha256"]) == 64
