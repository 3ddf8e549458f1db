"""Owns where a base model lies and what identifies it; reads a folder's files, loads no model and asks no network."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.settings import ModelSettings

NANO = "nano"
NANO_FOLDER = Path(__file__).parent / "nano"
CAUSAL = ("ForCausalLM", "LMHeadModel")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s that candidates can be drawn from: RMS norms, rotary positions, grouped queries, a gated MLP."""
# What decides a base's output; anything else that lies beside it does not count.
IDENTIFYING = re.compile(r"config\.json|tokenizer.*\.json|tokenizer\.model|.*\.safetensors(\.index\.json)?")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
INDEX = "model.safetensors.index.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class BaseFiles:
    """A base model that was located: its folder, or the hub name and commit to fetch."""

    name: str
    """`nano`, the hub name, or the folder's own name: what an adapter's config says of its base."""
    folder: Path | None
    """None for a base of the hub."""
    revision: str = ""
    """The hub commit; empty for a folder."""

    @cached_property
    def identity(self) -> str:
        """`hub:name@commit`, or the sha256 of the files that `identity_inputs` lists (0.1 s per 100 MB)."""
        if self.folder is None:
            return f"hub:{self.name}@{self.revision}"
        sha = hashlib.sha256()
        for path in _identifying_files(self.folder):
            with path.open("rb") as file:
                sha.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return sha.hexdigest()


def identity_inputs(folder: Path) -> list[tuple[str, int, int]]:
    """Returns (path, bytes, mtime in ns) of each file that a folder's identity is made of, sorted by name.

    While they stay the same the identity does: a caller may remember it under them.
    """
    stats = [(str(path.resolve()), path.stat()) for path in _identifying_files(folder)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def locate_base(settings: ModelSettings, root: Path) -> BaseFiles:
    """Finds the base that the settings name: `nano`, a folder (relative ones under `root`), or a name of the hub.

    Raises:
        InputError: no such folder, a folder that holds no causal language model in safetensors, or a hub name without
            the commit that pins it.
        MachineError: the embedded base is missing or damaged.
    """
    if settings.base == NANO:
        if problem := _folder_problem(NANO_FOLDER):
            raise MachineError(Problem("gonbuild/nano", f"the embedded base {problem}", "Install gonbuild again."))
        return BaseFiles(NANO, NANO_FOLDER)
    folder = root / Path(settings.base).expanduser()
    if folder.is_dir():
        if problem := _folder_problem(folder):
            wanted = "Wanted a folder that `save_pretrained` wrote: config.json, tokenizer and *.safetensors."
            raise InputError(Problem(settings.base, f"the base {problem}", wanted))
        return BaseFiles(folder.resolve().name, folder)
    where = "pyproject.toml"
    if not HUB_NAME.fullmatch(settings.base) or settings.base.startswith("."):
        wanted = "Wanted `nano`, a folder, or a hub name such as mistralai/Mistral-7B-v0.1."
        raise InputError(Problem(where, f"model.base '{settings.base}' is no folder here", wanted))
    if not COMMIT.fullmatch(settings.revision):
        what = f"model.base '{settings.base}' is no folder here, and as a hub name it wants a commit"
        found = f", not '{settings.revision}'" if settings.revision else ""
        wanted = f"Set model.revision to a commit of 40 hex digits{found}: the same settings then give the same model."
        raise InputError(Problem(where, what, wanted))
    return BaseFiles(settings.base, None, settings.revision)


def is_whole(folder: Path) -> bool:
    """Tells whether a folder holds a causal language model in safetensors, with every shard that its index names."""
    return not _folder_problem(folder)


def _identifying_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if IDENTIFYING.fullmatch(p.name) and p.is_file())


def _folder_problem(folder: Path) -> str:
    """Says what keeps a folder from being a base, an empty string where nothing does."""
    weights = {p.name for p in folder.glob("*.safetensors")}
    if not weights and any(folder.glob("*.gguf")):
        return "holds GGUF weights alone, from which nothing can be trained"
    if problem := _config_problem(_read_json(folder / "config.json")):
        return problem
    if not weights and any(folder.glob("*.bin")):
        return "holds pickled weights (*.bin) alone, which gonbuild never loads"
    wanted = _shards(folder)
    if not wanted:
        return f"has no readable {INDEX}"
    if missing := sorted(wanted - weights):
        return f"lacks {', '.join(missing)}"
    if pointers := sorted(name for name in wanted if _is_pointer(folder / name)):
        return f"holds Git LFS pointers in place of {', '.join(pointers)}"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return "has no tokenizer.json"
    return ""


def _config_problem(config: Any) -> str:
    if not isinstance(config, dict):
        return "has no readable config.json"
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return "is no causal language model: its config.json names no architectures"
    if not all(str(name).endswith(CAUSAL) for name in architectures) or config.get("is_encoder_decoder"):
        return f"is no causal language model: its config.json names {', '.join(map(str, architectures))}"
    if "auto_map" in config:
        return "wants code of its own to be run, which gonbuild never does"
    return ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # other errors are the disk's, not the base's
        return None


def _shards(folder: Path) -> set[str]:
    """Returns the weight files that a folder's index names, or the one there is without; none of a broken index."""
    index = folder / INDEX
    if not index.is_file():
        return {"model.safetensors"}
    value = _read_json(index)
    names = value.get("weight_map") if isinstance(value, dict) else None
    return {str(name) for name in names.values()} if isinstance(names, dict) else set()


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20).startswith(b"version https://git")
