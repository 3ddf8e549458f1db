import json
import os
import subprocess
from pathlib import Path

import pytest

from gonbuild.errors import MachineError
from gonbuild.records import digest
from gonbuild.store import Store, manifest_bytes


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> Store:
    return Store(tmp_path / "cache", warnings.append)


def fill(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"weights")
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").write_text("text")


def test_entry_comes_back_whole_with_its_inputs(store: Store) -> None:
    store.put("adapter", digest({"epochs": 3}), {"epochs": 3}, fill)
    folder = store.get("adapter", digest({"epochs": 3}))
    assert folder is not None
    assert (folder / "a.bin").read_bytes() == b"weights"
    assert (folder / "deep" / "b.txt").read_text() == "text"
    assert store.inputs("adapter", digest({"epochs": 3})) == {"epochs": 3}
    assert store.has("adapter", digest({"epochs": 3}))


def test_missing_entry_is_a_miss_without_a_warning(store: Store, warnings: list[str]) -> None:
    assert store.get("adapter", "k1") is None
    assert not store.has("adapter", "k1")
    assert store.inputs("adapter", "k1") is None
    assert warnings == []


def test_every_flipped_byte_is_a_miss_and_is_set_aside(store: Store, warnings: list[str]) -> None:
    for place in range(len(b"weights")):
        folder = store.put("adapter", "k1", None, fill)
        data = bytearray((folder / "a.bin").read_bytes())
        data[place] ^= 1
        (folder / "a.bin").write_bytes(data)
        assert store.get("adapter", "k1") is None
        assert not folder.exists()
    assert len(list((store.root / "quarantine").iterdir())) == len(b"weights")
    assert warnings[0] == "cache entry adapter/k1 is damaged (a.bin does not match its sha256); it is made again"


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b'{"key": "other", "files": {}}', b"\xff\xfe", b"[" * 100_000])
def test_half_written_or_foreign_manifest_is_a_miss(store: Store, warnings: list[str], manifest: bytes) -> None:
    folder = store.put("adapter", "k1", None, fill)
    (folder / "manifest.json").write_bytes(manifest)
    assert not store.has("adapter", "k1")
    assert store.get("adapter", "k1") is None
    assert "no readable manifest" in warnings[0]


def test_truncated_or_missing_file_is_seen_without_reading_it(store: Store) -> None:
    folder = store.put("adapter", "k1", None, fill)
    (folder / "a.bin").write_bytes(b"w")
    assert not store.has("adapter", "k1")
    (folder / "a.bin").unlink()
    assert not store.has("adapter", "k1")
    assert store.get("adapter", "k1") is None


def test_failed_fill_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise MachineError("the disk is full")

    with pytest.raises(MachineError, match="the disk is full"):
        store.put("adapter", "k1", None, fail)
    assert list((store.root / "adapter").iterdir()) == []


def test_entry_already_there_stays(store: Store) -> None:
    store.put("adapter", "k1", None, fill)
    store.put("adapter", "k1", None, lambda folder: (folder / "a.bin").write_bytes(b"other"))
    folder = store.get("adapter", "k1")
    assert folder is not None
    assert (folder / "a.bin").read_bytes() == b"weights"
    assert sorted(p.name for p in (store.root / "adapter").iterdir()) == ["k1"]


def test_damaged_entry_in_the_way_is_replaced(store: Store, warnings: list[str]) -> None:
    folder = store.put("adapter", "k1", None, fill)
    (folder / "a.bin").write_bytes(b"WEIGHTS")
    store.put("adapter", "k1", None, fill)
    assert store.get("adapter", "k1") is not None
    assert len(warnings) == 1


def test_memo_computes_once(store: Store) -> None:
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"n": 1}

    assert store.memo("m", {"x": 1}, compute) == {"n": 1}
    assert store.memo("m", {"x": 1}, compute) == {"n": 1}
    assert store.memo("m", {"x": 2}, compute) == {"n": 1}
    assert len(calls) == 2


def test_memo_works_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Store(tmp_path / "file" / "cache").memo("m", 1, lambda: [1]) == [1]


def test_entries_lists_and_clear_removes(store: Store) -> None:
    store.put_json("candidates", "k2", None, [1])
    store.put("adapter", "k1", None, fill)
    assert [(e.kind, e.key) for e in store.entries()] == [("adapter", "k1"), ("candidates", "k2")]
    assert all(e.size > 0 for e in store.entries())
    (store.root / "thesis.txt").write_text("mine")
    store.clear(1)
    assert (store.root / "thesis.txt").read_text() == "mine"
    assert store.entries() == []


def test_second_lock_times_out_with_the_cure(store: Store) -> None:
    with (
        store.lock(10),
        pytest.raises(MachineError, match=r"another build ran for over 0.01 s\. Wait for it, or raise machine.lock"),
        Store(store.root).lock(0.01),
    ):
        pass


def test_manifest_is_readable_json(store: Store) -> None:
    inputs = {"effect": "+2 điểm"}
    folder = store.put("adapter", digest(inputs), inputs, fill)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["a.bin", "deep/b.txt"]
    assert manifest["kind"] == "adapter"
    assert "điểm" in (folder / "manifest.json").read_text()


def test_files_are_for_all_who_may_use_the_store(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"1")
        (folder / "weights").chmod(0o600)

    store = Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "adapter").mkdir()
    (store.root / "adapter").chmod(0o2770)
    folder = store.put("adapter", "k", None, fill)
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir() if p.name == "weights"} == {"weights": 0o660}


def test_manifest_that_tells_other_inputs_is_none(store: Store, warnings: list[str]) -> None:
    inputs = {"base": "nano"}
    folder = store.put("adapter", digest(inputs), inputs, fill)
    files = store.manifest("adapter", digest(inputs))["files"]
    for data in (
        manifest_bytes("adapter", digest(inputs), {"base": "nanp"}, files),
        manifest_bytes("adaptes", digest(inputs), inputs, files),
        manifest_bytes("adapter", digest(inputs), inputs, files) + b" ",
    ):
        (folder / "manifest.json").write_bytes(data)
        assert store.manifest("adapter", digest(inputs)) is None
        assert not store.has("adapter", digest(inputs))
    assert store.get("adapter", digest(inputs)) is None
    assert len(warnings) == 1


def test_file_that_the_manifest_does_not_name_is_damage(store: Store, warnings: list[str]) -> None:
    folder = store.put("adapter", "k1", None, fill)
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    assert store.get("adapter", "k1") is None
    assert "(adapter_model.bin does not belong there)" in warnings[0]


def test_manifest_that_tells_another_size_is_damage(store: Store, warnings: list[str]) -> None:
    folder = store.put("adapter", "k1", None, fill)
    files = store.manifest("adapter", "k1")["files"]
    files["a.bin"]["size"] += 1
    (folder / "manifest.json").write_bytes(manifest_bytes("adapter", "k1", None, files))
    assert store.get("adapter", "k1") is None
    assert "(a.bin does not have its size)" in warnings[0]


def test_link_in_the_place_of_a_file_or_an_entry_is_damage(store: Store, warnings: list[str], tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    folder = store.put("adapter", "k1", None, fill)
    (folder / "a.bin").unlink()
    (folder / "a.bin").symlink_to(tmp_path / "weights")
    assert store.get("adapter", "k1") is None
    elsewhere = store.put("adapter", "k1", None, fill).rename(tmp_path / "elsewhere")
    (store.root / "adapter" / "k1").symlink_to(elsewhere)
    assert store.get("adapter", "k1") is None
    assert [line.partition("(")[2][:18] for line in warnings] == ["a.bin is a link); ", "k1 is a link); it "]
    assert sorted(p.name for p in elsewhere.iterdir()) == ["a.bin", "deep", "manifest.json"]


def test_what_killed_builds_left_goes_with_the_next_lock(store: Store) -> None:
    store.put("adapter", "k1", None, fill)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number in (ended.pid, os.getppid()):
        (store.root / "adapter" / f".k2.{number}.abcd").mkdir()
        (store.root / "adapter" / f".k2.{number}.abcd" / "half").write_bytes(b"x" * 100)
    with store.lock(1):
        assert sorted(p.name for p in (store.root / "adapter").iterdir()) == [f".k2.{os.getppid()}.abcd", "k1"]


def test_work_in_a_folder_that_is_a_link_is_done_in_one_of_its_own(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (store.root / "training").mkdir(parents=True)
    (store.root / "training" / "k1").symlink_to(tmp_path / "elsewhere")
    with store.scratch("training", "k1") as folder:
        (folder / "checkpoint").write_bytes(b"1")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert list((store.root / "training").iterdir()) == []


def test_of_work_that_did_not_end_the_two_latest_stay(store: Store) -> None:
    for age, key in enumerate(("k1", "k2", "k3", "k4")):
        folder = store.root / "training" / key
        folder.mkdir(parents=True)
        os.utime(folder, (1_000_000 + age, 1_000_000 + age))
    with store.scratch("training", "k5"):
        assert sorted(p.name for p in (store.root / "training").iterdir()) == ["k3", "k4", "k5"]


def test_file_that_a_killed_process_left_in_the_place_of_a_folder_goes(store: Store) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    store.put("adapter", "k1", None, fill)
    (store.root / "adapter" / f".k2.{ended.pid}.x").write_bytes(b"half")
    with store.lock(1):
        assert [p.name for p in (store.root / "adapter").iterdir()] == ["k1"]
