"""What a machine tells of itself, read from the files of a system that a test describes."""

from pathlib import Path

import pytest
import torch

from gonbuild.machine import SYSTEM, driver, free_bytes, free_memory, processor, same_on_threads

MEMORY = "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n"


def system(root: Path, **files: str) -> Path:
    """Writes files of a system, named with __ for /; returns its root."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(limit: str, used: str, stat: str = "anon 5\ninactive_file 1024\n") -> dict[str, str]:
    names = {"max": limit, "current": used, "stat": stat}
    return {f"sys__fs__cgroup__memory.{name}": text for name, text in names.items()}


@pytest.mark.parametrize(
    ("files", "kib"),
    [
        ({}, 4000),
        (group("max\n", "512\n"), 4000),
        (group("2048000\n", "1024000\n"), 1001),  # a page that was only read gives way
        (group("2048000\n", "1024000\n", "anon 5\n"), 1000),
        (group("99999999999\n", "0\n"), 4000),
        (group("damaged", "0"), 4000),
    ],
)
def test_free_memory_is_the_systems_or_less_where_a_control_group_says_so(
    tmp_path: Path, files: dict[str, str], kib: int
) -> None:
    assert free_memory(system(tmp_path, proc__meminfo=MEMORY, **files)) == kib << 10


@pytest.mark.parametrize("text", [None, "", "MemTotal: 9000 kB\n", "MemAvailable: many kB\n"])
def test_system_that_tells_no_memory_sets_no_limit(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        system(tmp_path, proc__meminfo=text)
    assert free_memory(tmp_path) > 1 << 50


@pytest.mark.skipif(not (SYSTEM / "proc/meminfo").exists(), reason="Linux alone has it")
def test_this_machine_tells_its_memory() -> None:
    assert 0 < free_bytes("cpu") < 1 << 50


def test_processor_is_named_by_its_first_core_or_by_python(tmp_path: Path) -> None:
    elsewhere = processor(tmp_path)
    assert elsewhere
    assert processor(system(tmp_path, proc__cpuinfo="flags\t: a b\n")) == elsewhere
    cores = "processor\t: 0\nmodel name\t: Xeon (R) 3 GHz\nmodel name\t: other\n"
    assert processor(system(tmp_path, proc__cpuinfo=cores)) == "Xeon (R) 3 GHz"


def test_driver_is_its_version_or_unknown(tmp_path: Path) -> None:
    assert driver(tmp_path) == "unknown"
    assert driver(system(tmp_path, proc__driver__nvidia__version="NVRM version: none")) == "unknown"
    told = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 3\n"
    assert driver(system(tmp_path, proc__driver__nvidia__version=told)) == "570.86.15"


def test_product_that_hangs_on_the_threads_is_found_out_and_the_threads_are_left() -> None:
    before = torch.get_num_threads()
    assert same_on_threads(lambda rows, _: rows)
    assert not same_on_threads(lambda rows, _: rows * torch.get_num_threads())
    assert torch.get_num_threads() == before
