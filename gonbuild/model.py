# ruff: noqa: E402  the environment must be set before the libraries below read it
"""Owns loading a base model and saying what this machine lacks for one; trains nothing and samples nothing."""

import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gonbuild.ranks import device_index, processes

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
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.utils import logging

from gonbuild.base import BaseFiles, is_whole
from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.quantized import is_quantized, read_weights
from gonbuild.records import END, Row
from gonbuild.settings import ModelSettings

if not torch.cuda.is_available():
    # peft imports it wherever it is installed: that prints a warning and looks for a kernel to fetch.
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # None: an import says it is not there

TAGS = ("<|system|>", "<|user|>", "<|assistant|>", END)
GIB = 2**30
WANTED_FILES = ["config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "model*.safetensors*"]


@dataclass(frozen=True)
class Base:
    """A causal language model that is loaded, with its tokenizer; `model` may carry an adapter."""

    model: Any
    tokenizer: Any
    files: BaseFiles
    device: torch.device
    dtype: torch.dtype

    @property
    def context(self) -> int:
        """Positions the model knows, in tokens."""
        return int(self.model.config.max_position_embeddings)

    @property
    def quantized(self) -> bool:
        return bool(getattr(self.model, "is_loaded_in_4bit", False))

    def encode(self, prompt: str) -> list[int]:
        """Returns a prompt's token ids, with whatever the tokenizer puts before a text."""
        return list(self.tokenizer(prompt)["input_ids"])

    def encode_row(self, row: Row) -> tuple[list[int], int]:
        """Returns the token ids of prompt and completion, and how many of them the prompt is.

        The eos token follows where the completion does not end with it. The completion starts where the prompt's own
        tokens and those of the whole part, as trl has it.
        """
        eos = self.tokenizer.eos_token
        ids = self.encode(row.prompt + row.completion + ("" if row.completion.endswith(eos) else eos))
        prompt = self.encode(row.prompt)
        start = next((n for n, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        return ids, start


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


def this_machine() -> Machine:
    """Looks at memory and devices, without allocating anything on them."""
    gpu = torch.cuda.mem_get_info(device_index())[0] / GIB if torch.cuda.is_available() else None
    quantizer = False
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        quantizer = bool(importlib.metadata.version("bitsandbytes"))
    return Machine(_free_memory() / GIB, gpu, quantizer, _hub_has)


def missing_for(settings: ModelSettings, files: BaseFiles, machine: Machine | None = None) -> list[str]:
    """Returns what this machine lacks for the model, a clause each; nothing is loaded, and an empty list means it runs.

    Only for a base of the hub that is not in the local cache is the network asked.
    """
    machine = machine or this_machine()
    missing = []
    wanted = settings.memory_gib
    if settings.device == "cuda" and machine.gpu_gib is None:
        missing.append(f"no CUDA device (a GPU with {wanted:g} GiB is wanted)")
    elif settings.device == "cuda" and machine.gpu_gib is not None and machine.gpu_gib < wanted:
        missing.append(f"the GPU has {machine.gpu_gib:.1f} GiB free, {wanted:g} wanted")
    elif settings.device == "cpu" and machine.memory_gib < wanted:
        missing.append(f"{machine.memory_gib:.1f} GiB of memory are free, {wanted:g} wanted")
    if settings.quantization == "nf4" and not machine.bitsandbytes:
        missing.append("bitsandbytes is not installed")
    if files.folder is None and _cached(files) is None and not machine.hub_has(files.name, files.revision):
        missing.append(f"{files.name} is neither in the local hub cache nor reachable")
    return missing


def load_base(files: BaseFiles, settings: ModelSettings, threads: int, machine: Machine | None = None) -> Base:
    """Loads model and tokenizer, from safetensors alone, and sets the CPU threads (0: one per usable core, 4 at most).

    Raises:
        MachineError: this machine lacks something, said in one line.
        InputError: the tokenizer does not fit: no eos token, or chat tags that it cannot tell apart.
    """
    _be_quiet()
    torch.set_num_threads(threads or min(4, usable_cores()))
    if missing := missing_for(settings, files, machine):
        raise _lacking(files, "; ".join(missing))
    folder = files.folder or _cached(files) or _download(files)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, found = _read_model(folder, settings)
    except torch.OutOfMemoryError as e:
        raise _lacking(files, f"memory ran out while loading: {e}") from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise InputError(Problem(files.name, f"the base cannot be loaded: {str(e).splitlines()[0]}")) from e
    if wrong := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
        # they would be random numbers
        what = f"{len(wrong)} of the base's tensors are missing or of another shape, {wrong[0]} first"
        raise InputError(Problem(files.name, what, "Wanted weights that fit config.json."))
    _fit_tokenizer(tokenizer, files)
    model.eval().requires_grad_(False)
    device = torch.device("cuda", device_index()) if settings.device == "cuda" else torch.device("cpu")
    return Base(model, tokenizer, files, device, getattr(torch, settings.dtype))


def _read_model(folder: Path, settings: ModelSettings) -> tuple[Any, Any]:
    """Returns the model of a folder, and what `from_pretrained` says of its tensors."""
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, **model_options(settings)}
    if not is_quantized(folder):
        return AutoModelForCausalLM.from_pretrained(folder, **options)  # type: ignore[no-any-return]
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"'{config.model_type}' is no causal language model")
    weights = {name: torch.from_numpy(weight) for name, weight in read_weights(folder).items()}
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind.from_pretrained(None, config=config, state_dict=weights, **options)  # type: ignore[no-any-return]


def model_options(settings: ModelSettings) -> dict[str, Any]:
    """Returns what `from_pretrained` is told of a base that lies in a folder."""
    options: dict[str, Any] = {
        "dtype": getattr(torch, settings.dtype),
        "attn_implementation": "sdpa",
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    if settings.device == "cuda":
        options["device_map"] = {"": device_index()}
    if settings.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=settings.double_quantization,
            bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        )
    return options


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows_are_exact() -> bool:
    """Tells whether a row's float32 results stay the same, to the bit, whatever the batch and the thread count.

    A self-test of some 10 ms over products of a small transformer's shapes.
    """
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    try:
        for inner, outer in ((384, 1088), (1088, 384), (384, 192)):
            rows = torch.randn(24, inner, generator=generator)
            weight = torch.randn(outer, inner, generator=generator)
            whole = F.linear(rows, weight)
            for count in {1, threads}:
                torch.set_num_threads(count)
                for batch in (1, 2, 3, 8, 16):
                    if not torch.equal(F.linear(rows[:batch], weight), whole[:batch]):
                        return False
    finally:
        torch.set_num_threads(threads)
    return True


def describe_machine() -> dict[str, str]:
    """Says in words what this machine is and has, for people: name -> value."""
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores usable": str(usable_cores()),
        "memory free": f"{_free_memory() / GIB:.1f} GiB",
    }
    for name in ("torch", "transformers", "peft", "trl"):
        facts[name] = importlib.metadata.version(name)
    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    facts["GPU"] = ", ".join(f"{d.name} ({d.total_memory / GIB:.0f} GiB)" for d in devices) or "none"
    exact = "yes" if rows_are_exact() else "no: another machine or thread count may draw other new stories"
    facts["same draws"] = exact
    return facts


def _be_quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _lacking(files: BaseFiles, what: str) -> MachineError:
    wanted = "" if files.name == "nano" else 'profile = "nano" works on any machine.'
    return MachineError(Problem("", f"this machine can't run {files.name}: {what}", wanted))


def _fit_tokenizer(tokenizer: Any, files: BaseFiles) -> None:
    """Gives the tokenizer a pad token, and refuses one that cannot carry the chat turns."""
    if tokenizer.eos_token is None:
        raise InputError(Problem(files.name, "its tokenizer has no eos token", "Wanted one in tokenizer_config.json."))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokens = [tuple(tokenizer(tag, add_special_tokens=False)["input_ids"]) for tag in TAGS]
    if len(set(tokens)) < len(TAGS) or any(not ids or tokenizer.unk_token_id in ids for ids in tokens):
        what = f"its tokenizer cannot tell {', '.join(TAGS)} apart"
        raise InputError(Problem(files.name, what, "Wanted a tokenizer with these tags, or one that falls to bytes."))


def _cached(files: BaseFiles) -> Path | None:
    """Returns the folder of a hub base in the local cache, None where it is not there in full."""
    try:
        folder = Path(snapshot_download(files.name, revision=files.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if is_whole(folder) else None


def _download(files: BaseFiles) -> Path:
    try:
        folder = Path(snapshot_download(files.name, revision=files.revision, allow_patterns=WANTED_FILES))
    except (OSError, HfHubHTTPError) as e:
        raise _lacking(files, f"the download failed: {str(e).splitlines()[0]}") from None
    if not is_whole(folder):
        raise _lacking(files, "the hub holds no causal language model in safetensors under this commit")
    return folder


def _hub_has(name: str, revision: str) -> bool:
    try:
        HfApi().model_info(name, revision=revision, timeout=5)
    except Exception:  # no network, no such model, gated, offline: each means that it cannot be had here
        return False
    return True


def _free_memory() -> int:
    """Returns the bytes that a process may still take: the system's, or less where a control group says so."""
    free = sys.maxsize
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        if limit != "max":
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            cached = int(stat.get("inactive_file", 0))  # files that were read count as used, and give way
            free = min(free, int(limit) - int(used) + cached)
    except (OSError, ValueError, StopIteration):
        return free
    return free


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
