"""Disks that take no more: a real one of 400 kB where the tests may mount it, and a limit on file sizes."""

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fakes import DECK, FakeModels, make_project
from safetensors.torch import save_file

from gonbuild.cli import main
from gonbuild.disk import (
    FAILING,
    SEAL,
    committed,
    damage,
    disk_trouble,
    file_digests,
    folder_aside,
    full_disk_named,
    is_sealed,
    links_out,
    seal,
    write_all_aside,
    write_aside,
)
from gonbuild.errors import MachineError
from gonbuild.pipeline import Project, load_project
from gonbuild.records import Progress, Row
from gonbuild.store import Store

TENSORS = {"weights": torch.zeros(300_000)}
WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda folder: (folder / "value.bin").write_bytes(b"x" * 1_200_000),
    "safetensors": lambda folder: save_file(TENSORS, folder / "adapter_model.safetensors"),
    "torch": lambda folder: torch.save(TENSORS, folder / "optimizer.pt"),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file over 400 kB may be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def left(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("writer", WRITERS)
def test_full_disk_leaves_no_half_entry_and_is_named(small_disk: Path, writer: str) -> None:
    store = Store(small_disk / "cache")
    with pytest.raises(MachineError, match=r"small/cache/adapter/k1: cannot be written: the disk is full.*Free some"):
        store.put("adapter", "k1", None, WRITERS[writer])
    assert left(small_disk) == []
    store.put("adapter", "k1", None, lambda folder: (folder / "small.bin").write_bytes(b"x"))
    assert store.get("adapter", "k1") is not None


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.usefixtures("small_files")
def test_limit_on_file_sizes_is_met_in_the_same_way(tmp_path: Path, writer: str) -> None:
    with pytest.raises(
        MachineError, match=r"cache/adapter/k1: cannot be written: the (file is too large|disk is full)"
    ):
        Store(tmp_path / "cache").put("adapter", "k1", None, WRITERS[writer])
    assert left(tmp_path) == []


def test_folder_aside_leaves_nothing_on_a_full_disk(small_disk: Path) -> None:
    with (
        pytest.raises(MachineError, match=r"small/out: cannot be written: the disk is full"),
        folder_aside(small_disk / "out") as aside,
    ):
        WRITERS["safetensors"](aside)
    assert list(small_disk.iterdir()) == []


def test_no_file_of_several_changes_where_one_finds_no_room(small_disk: Path) -> None:
    (small_disk / "a").write_bytes(b"old")
    with pytest.raises(MachineError, match=r"small/b: cannot be written: the disk is full"):
        write_all_aside({small_disk / "a": b"new", small_disk / "b": b"x" * 1_000_000})
    assert (small_disk / "a").read_bytes() == b"old"
    assert left(small_disk) == ["a"]


def test_memo_on_a_full_disk_is_computed_all_the_same(small_disk: Path) -> None:
    assert Store(small_disk / "cache").memo("library", ["x"], lambda: "x" * 600_000) == "x" * 600_000
    assert left(small_disk) == []


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), RuntimeError("CUDA error"), KeyError()])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, full_disk_named(Path("x")):
        raise error
    assert caught.value is error


class Fat(FakeModels):
    """Trains an adapter that fits no small disk."""

    def train(self, rows: list[Row], folder: Path, work: Path, progress: Progress, *_: object) -> None:
        WRITERS["safetensors"](folder)


def test_build_that_fills_the_disk_is_exit_3_and_leaves_the_packs(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "game"
    project = make_project(root)
    project.build()
    before = {path: path.read_bytes() for path in (root / "build/packs").iterdir()}
    (root / "cards/thu.yaml").write_text(DECK.replace("+2 điểm", "+3 điểm"), encoding="utf-8")

    def load(_root: str, _profile: str | None) -> Project:
        return Project(root, load_project(root).settings, Store(small_disk / "cache"), Fat())

    assert main(["stories", "--root", str(root)], load) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"gonbuild: {small_disk}/cache/adapter/")
    assert "cannot be written: the disk is full. Free some space" in last
    assert {path: path.read_bytes() for path in (root / "build/packs").iterdir()} == before
    assert not [name for name in left(small_disk) if "adapter" in name]


def test_packs_that_find_no_room_stay_as_they_were(small_disk: Path, tmp_path: Path) -> None:
    root = small_disk / "game"
    root.mkdir()
    store = Store(tmp_path / "cache")
    make_project(root)
    project = Project(root, load_project(root).settings, store, FakeModels())
    project.build()
    before = {path: path.read_bytes() for path in (root / "build").rglob("*") if path.is_file()}
    (root / "cards/thu.yaml").write_text(DECK.replace("+2 điểm", "+3 điểm"), encoding="utf-8")
    room = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"x" * (room.f_bavail * room.f_bsize))
    with pytest.raises(MachineError, match=r"game/build/.*: cannot be written: the disk is full"):
        project.build()
    assert {path: path.read_bytes() for path in (root / "build").rglob("*") if path.is_file()} == before
    (small_disk / "filler").unlink()
    project.build()
    assert not project.plan().changes


def test_written_file_is_whole_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pack.json"
    write_aside(path, b"one")
    write_aside(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["pack.json"]


def test_half_written_files_of_ended_processes_go_and_those_of_others_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = [f".pack.json.{n}.tmp" for n in (ended.pid, os.getppid(), "not-a-number", 10**30)]
    for name in (*names, ".pack.json.bak"):
        (tmp_path / name).write_bytes(b"half")
    write_all_aside({tmp_path / "pack.json": b"whole"})
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted(["pack.json", ".pack.json.bak", f".pack.json.{os.getppid()}.tmp"])


def test_all_files_change_or_none(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"old lock")
    (tmp_path / "gone").write_bytes(b"old deck")
    (tmp_path / "pack" / "in the way").mkdir(parents=True)
    files = {tmp_path / "lock": b"new", tmp_path / "new": b"new", tmp_path / "gone": None, tmp_path / "pack": b"new"}
    with pytest.raises(IsADirectoryError):
        write_all_aside(files)
    assert (tmp_path / "lock").read_bytes() == b"old lock"
    assert (tmp_path / "gone").read_bytes() == b"old deck"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gone", "lock", "pack"]
    del files[tmp_path / "pack"]
    write_all_aside(files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", "new", "pack"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (Exception("I/O error: Input/output error (os error 5)"), "the disk refuses (Input/output error)"),
        (
            Exception('I/O error: Permission denied (os error 13) at path "/x/y"'),
            "the disk refuses (Permission denied)",
        ),
        (
            RuntimeError("unable to open file </x/y> in read-only mode: Permission denied (13)"),
            "the disk refuses (Permission denied)",
        ),
        (RuntimeError("basic_ios::clear: iostream error"), "the disk is full or fails"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "the disk is full or fails"),
        (OSError(errno.EIO, "x"), ""),
        (ValueError("12 (apples)"), ""),
    ],
    ids=str,
)
def test_what_a_disk_refused_is_told_in_words(error: Exception, said: str) -> None:
    assert disk_trouble(error) == said
    later = KeyError("later")
    later.__cause__ = error
    assert disk_trouble(later) == said


def test_failing_disk_is_told_where_it_is_asked_for() -> None:
    assert disk_trouble(OSError(errno.EIO, "x"), FAILING) == "Input/output error"


def test_seal_tells_whether_a_folder_is_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    assert not is_sealed(folder)
    (folder / "state").write_bytes(b"1")
    seal(folder)
    assert is_sealed(folder)
    (folder / "more").touch()
    assert not is_sealed(folder)
    seal(folder)
    assert is_sealed(folder)
    for broken in ("{", "[]", "7", '{"state": 1}', "[" * 100_000):
        (folder / SEAL).write_text(broken)
        assert not is_sealed(folder)


def test_links_out_of_a_project_are_named(tmp_path: Path) -> None:
    root = tmp_path / "game"
    (root / "inside").mkdir(parents=True)
    for name, target in {"in": "inside", "out": "..", "nowhere": "gone", "circle": "circle"}.items():
        (root / name).symlink_to(target)
    found = [problem.where for problem in links_out(root, ["in", "out", "nowhere", "circle", "inside", "missing"])]
    assert found == ["out", "nowhere", "circle"]


def test_unreadable_file_is_the_machines_fault_and_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    files = file_digests(tmp_path)
    (tmp_path / "a").unlink()
    assert damage(tmp_path, files, "beside") == "a is missing"
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        damage(tmp_path, files, "beside")


def test_files_that_git_tracks_are_counted(tmp_path: Path) -> None:
    assert committed(tmp_path, "cache") == 0
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "cache" / "a").mkdir(parents=True)
    for name in ("cache/a/one", "cache/two", "three"):
        (tmp_path / name).touch()
    assert committed(tmp_path, "cache") == 0
    subprocess.run(["git", "-C", tmp_path, "add", "-f", "."], check=True)
    assert committed(tmp_path, "cache") == 2


def test_without_git_nothing_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert committed(tmp_path, "cache") == 0
