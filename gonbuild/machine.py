# ruff: noqa: E402  the environment must be set before the libraries below read it
"""Owns what this machine is and has, and the environment that the heavy libraries read; loads no model."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gonbuild.ranks import device_index, processes
from gonbuild.ranks import usable_cores as usable_cores

# Read once, when the libraries below are first imported. MKL_CBWR makes a row's result independent of the other rows
# and of the thread count on Intel; the CUBLAS one does the same for repeated runs on a GPU.
for _name, _value in {
    "MKL_CBWR": "AVX2,STRICT",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}.items():
    os.environ.setdefault(_name, _value)
if processes() == 1:  # else the Trainer would spread a single process's batches over all that it sees
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]

import torch
import torch.nn.functional as F
from huggingface_hub import HfApi

from gonbuild.memory import GIB, TILE

if not torch.cuda.is_available():
    # peft imports it wherever it is installed: that prints a warning and looks for a kernel to fetch.
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # None: an import says it is not there

SYSTEM = Path("/")
"""Where Linux tells what it has, under `proc` and `sys`."""


@dataclass(frozen=True)
class Machine:
    """What this machine has to offer a model; tests describe another one."""

    memory_gib: float
    """Free on the CPU's side."""
    gpu_gib: float | None
    """Free on the first GPU, None without one."""
    bitsandbytes: bool
    hub_has: Callable[[str, str], bool]
    """(name, commit) -> whether the hub can be reached and has it."""
    kernels: bool = True
    """Triton is there, and a C compiler, which it starts kernels with."""


def this_machine() -> Machine:
    """Looks at memory and devices, without allocating anything on them."""
    gpu = torch.cuda.mem_get_info(device_index())[0] / GIB if torch.cuda.is_available() else None
    compiler = any(map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))))
    return Machine(free_memory() / GIB, gpu, _installed("bitsandbytes"), _hub_has, compiler and _installed("triton"))


def _installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def free_bytes(device: str) -> int:
    """Returns what can still be taken on `cpu` or `cuda`, what torch has taken there and does not use among it."""
    if device == "cpu":
        return free_memory()
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # pragma: no cover  wants a GPU
    return int(torch.cuda.mem_get_info()[0]) + unused  # pragma: no cover  wants a GPU


def training_is_exact() -> bool:
    """Tells whether float32 products stay the same, to the bit, whatever the thread count.

    Like `drawing_is_exact` a self-test of some 10 ms over products of a small transformer's shapes.
    """
    return same_on_threads(lambda rows, weight: F.linear(rows[:24], weight))


def drawing_is_exact() -> bool:
    """Tells whether a row of a tile gets the same float32 bits in any place, beside any others, on any threads."""

    def product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(rows), len(weight))
        for part in torch.randperm(len(rows)).view(-1, TILE):
            out[part] = F.linear(rows[part], weight)
        return out

    return same_on_threads(product)


def same_on_threads(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> bool:
    """Tells whether a product of rows and a weight gives the same bits each time, on any number of threads."""
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    try:
        for inner, outer in ((384, 1088), (1088, 384), (384, 192)):
            rows, weight = (torch.randn(count, inner, generator=generator) for count in (4 * TILE, outer))
            torch.set_num_threads(threads)
            wanted = product(rows, weight)
            for count in {1, 2, threads}:
                torch.set_num_threads(count)
                if not torch.equal(product(rows, weight), wanted):
                    return False
    finally:
        torch.set_num_threads(threads)
    return True


def describe_machine() -> dict[str, str]:
    """Says in words what this machine is and has, for people: name -> value."""
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores usable": str(usable_cores()),
        "memory free": f"{free_memory() / GIB:.1f} GiB",
    }
    for name in ("torch", "transformers", "peft", "trl"):
        facts[name] = importlib.metadata.version(name)
    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    facts["GPU"] = ", ".join(f"{d.name} ({d.total_memory / GIB:.0f} GiB)" for d in devices) or "none"
    for name, exact in (("same training", training_is_exact()), ("same draws", drawing_is_exact())):
        facts[name] = "yes" if exact else "no: another thread count may give another result"
    return facts


def describe_hardware(device: str) -> dict[str, str | int]:
    """Says what a step ran on, for the record: devices and their number, processor, driver, CUDA and torch."""
    facts: dict[str, str | int] = {
        "device": processor(),
        "devices": 1,
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if device == "cuda" and torch.cuda.is_available():  # pragma: no cover  wants a GPU
        facts |= {"device": torch.cuda.get_device_name(device_index()), "devices": processes()}
        facts |= {"driver": driver(), "cuda": str(torch.version.cuda)}
    return facts


def _hub_has(name: str, revision: str) -> bool:
    try:
        return bool(HfApi().model_info(name, revision=revision, timeout=5))
    except Exception:  # no network, no such model, gated, offline: each means that it cannot be had here
        return False


def free_memory(system: Path = SYSTEM) -> int:
    """Returns the bytes that a process may still take: the system's, or less where a control group says so."""
    free = sys.maxsize
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (system / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = system / "sys/fs/cgroup"
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        if limit != "max":
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            cached = int(stat.get("inactive_file", 0))  # files that were read count as used, and give way
            free = min(free, int(limit) - int(used) + cached)
    return free


def processor(system: Path = SYSTEM) -> str:
    """Returns the processor's name, as far as the system tells it."""
    try:
        lines = (system / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def driver(system: Path = SYSTEM) -> str:
    """Returns the version of NVIDIA's driver, as far as the system tells it."""
    try:
        told = (system / "proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", told)
    return found[0] if found else "unknown"
