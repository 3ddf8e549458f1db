"""Several processes of one launch that train together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import make_project, open_project
from safetensors.numpy import load_file
from tiny import write_tiny_base

from gonbuild.cli import main
from gonbuild.pipeline import load_project
from gonbuild.ranks import process

SETTINGS = """\
[tool.gonbuild.model]
base = "base"
[tool.gonbuild.adapter]
rank = 4
epochs = 4.0
batch_size = 2
dropout = 0.0
last_layers = 0
[tool.gonbuild.machine]
checkpoint_updates = 3
threads = 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path, settings=SETTINGS)
    write_tiny_base(tmp_path / "base")
    return tmp_path


def launch(root: Path, count: int) -> subprocess.CompletedProcess[str]:
    """Runs torchrun, which `accelerate launch` calls for several GPUs; on a CPU that one starts a single process."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    environ = {**os.environ, "GONBUILD_CACHE": "together", "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, *launcher, "gonbuild.cli", "train"]
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=240, check=False)


def test_two_processes_train_as_one_does(project: Path) -> None:
    together = launch(project, 2)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("adapter ") == 1  # the first process alone speaks
    alone = load_project(project).train()
    folders = alone, project / "together" / "adapter" / alone.name
    losses = [[x for _, x in json.loads((f / "training.json").read_bytes())["losses"]] for f in folders]
    assert len(losses[0]) == 8
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    weights = [load_file(f / "adapter_model.safetensors") for f in folders]
    for name, value in weights[0].items():
        assert weights[1][name] == pytest.approx(value, abs=2e-3)
    assert not all((weights[1][name] == value).all() for name, value in weights[0].items())  # sums in another order
    again = launch(project, 2)
    assert again.returncode == 0, again.stderr
    assert "training" not in again.stderr


def test_processes_together_can_only_train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["plan"]) == 2
    assert "2 processes were started, and together they can only train" in capsys.readouterr().err


def test_first_process_asks_the_store_and_the_others_wait_for_its_word(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_project(project)
    first.train()
    assert first.models.log == ["train 3"]
    assert not first.models.others_wait
    monkeypatch.setenv("RANK", "1")
    assert process() == 0  # of one process: somebody else's variable
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = open_project(project)
    assert second.train() == first.store.root / "adapter" / first.workspace().adapter_key
    assert second.models.log == ["help 3"]
