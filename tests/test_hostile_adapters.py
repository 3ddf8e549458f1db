"""Adapters as a stranger could leave them in a cache or a shared store, with manifests that fit; nothing is faked."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import test_line
from fakes import make_project
from tiny import write_tiny_base

from gonbuild import packs
from gonbuild.cli import main
from gonbuild.disk import file_digests
from gonbuild.pipeline import load_project
from gonbuild.store import MANIFEST, manifest_bytes

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Bomb:
    """Unpickled, it leaves a file where it was told to."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.place,)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters") / "game"
    write_tiny_base(root / "base")
    make_project(root, settings=test_line.SETTINGS)
    load_project(root).train()
    return root


def pickled(name: str) -> Callable[[Path], object]:
    """Puts a pickle in the place of the weights."""

    def attack(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Bomb(folder.parents[3] / "ran")))

    return attack


def config(**values: object) -> Callable[[Path], object]:
    """Changes the adapter's config."""

    def attack(folder: Path) -> None:
        told = json.loads((folder / CONFIG).read_bytes())
        (folder / CONFIG).write_text(json.dumps(told | values), encoding="utf-8")

    return attack


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle of PEFT": (pickled("adapter_model.bin"), f"no {WEIGHTS} (adapter_model.bin is a pickle, which is never"),
    "pickle of torch": (pickled("adapter_model.pt"), f"the adapter has no {WEIGHTS}"),
    "pickle by the name of weights": (
        lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(folder.parents[3] / "ran"))),
        f"{WEIGHTS} cannot be read",
    ),
    "another base": (
        config(base_model_name_or_path="evil/model"),
        "was made for 'evil/model', and model.base is 'base'",
    ),
    "a module to import": (config(auto_mapping={"parent_library": "os"}), f"its {CONFIG} sets auto_mapping"),
    "a pattern to run": (config(target_modules="(a+)+$"), f"its {CONFIG} sets target_modules"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_adapter_is_refused_and_runs_nothing(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(trained, tmp_path / "game"))
    ws = load_project(root).workspace()
    folder = root / "build" / "cache" / "adapter" / ws.adapter_key
    attack, said = ATTACKS[name]
    attack(folder)
    (folder / MANIFEST).unlink()
    forged = manifest_bytes("adapter", ws.adapter_key, ws.adapter_inputs, file_digests(folder))
    (folder / MANIFEST).write_bytes(forged)
    capsys.readouterr()
    assert main(["stories", "--root", str(root)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (root / "ran").exists()
    assert not (root / packs.LOCK).exists()
