"""Owns an adapter's files and putting one on a base; trains nothing, samples nothing."""

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn

from gonbuild.disk import FAILING, disk_trouble
from gonbuild.errors import InputError, MachineError, Problem

CURE = "Delete its folder (in the cache, and in cache.remote where it came from there), then `gonbuild train`."
NUMBERS = ("r", "lora_alpha", "lora_dropout")
LISTS = ("target_modules", "layers_to_transform")
OWN = frozenset((*NUMBERS, *LISTS, "base_model_name_or_path", "inference_mode", "peft_version"))
"""Keys of a config that an adapter's settings decide, or that decide nothing."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def attach_adapter(base: Base, folder: Path, *, merged: bool = True) -> Base:
    """Returns the base with the adapter of a folder, merged into a copy of its layers: `in_full` says what those take.

    Where it is not to be merged, the base itself carries it, in place of an earlier one, until `detach_adapter`; that
    takes little memory, and draws slower.

    Raises:
        InputError: no adapter in safetensors there, or one that was made for another base.
    """
    _check_adapter(base, folder)
    detach_adapter(base)
    model = in_full(base).model if merged else base.model
    with nothing_printed():
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=False, use_safetensors=True).eval()
    return replace(base, model=adapted.merge_and_unload() if merged else adapted)


def in_full(base: Base) -> Base:
    """Returns a base whose matrices are copies, in the number format that is computed in; all else is shared."""
    shared = {id(x): x for x in (*base.model.parameters(), *base.model.buffers())}
    model = deepcopy(base.model, shared)
    if base.quantized:
        with nothing_printed():
            model = model.dequantize(base.dtype)
        model.is_loaded_in_4bit = False  # which transformers leaves as it was
    else:
        copies: dict[int, nn.Parameter] = {}  # a weight that two modules share stays shared
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                own = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
                module.weight = copies.setdefault(id(module.weight), own)
    return replace(base, model=model.eval().requires_grad_(False))


def merge_adapter(base: Base, folder: Path) -> Base:
    """Merges the adapter of a folder into the base's own weights, which must not be quantised.

    Raises:
        InputError: as `attach_adapter`, or the adapter holds what is no number.
    """
    _check_adapter(base, folder)
    with nothing_printed():
        adapted = PeftModel.from_pretrained(base.model, folder, is_trainable=False, use_safetensors=True)
        try:
            return replace(base, model=adapted.merge_and_unload(safe_merge=True).eval())
        except ValueError as e:
            what = f"the adapter cannot be merged: {str(e).splitlines()[0]}"
            raise InputError(Problem(folder.name, what, CURE)) from e


def detach_adapter(base: Base) -> None:
    """Takes the adapter off a base whose model carries one; a base that carries none stays as it is."""
    _strip(base.model)


def _strip(model: Any) -> None:
    """Puts the base's own modules back in place of LoRA's, which hold them unchanged."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            model.set_submodule(name, module.get_base_layer())
    model.__dict__.pop("peft_config", None)
    model.eval().requires_grad_(False)


def _check_adapter(base: Base, folder: Path) -> None:
    where, problems = folder.name, []
    config = _adapter_config(folder)
    if not (folder / WEIGHTS).is_file():
        pickles = " (adapter_model.bin is a pickle, which is never loaded)" if any(folder.glob("*.bin")) else ""
        problems.append(Problem(where, f"the adapter has no {WEIGHTS}{pickles}", CURE))
    if config is None:
        problems.append(Problem(where, f"the adapter has no readable {CONFIG}", CURE))
    elif config.get("base_model_name_or_path") != base.files.name:
        made_for = config.get("base_model_name_or_path")
        what = f"the adapter was made for '{made_for}', and model.base is '{base.files.name}'"
        problems.append(Problem(where, what, "Set model.base to the one, or train again for the other."))
    elif odd := _odd_keys(config):
        problems.append(Problem(where, f"the adapter is not a plain LoRA: its {CONFIG} sets {', '.join(odd)}", CURE))
    problems = problems or list(_wrong_shapes(base, folder, config))
    if problems:
        raise InputError(problems)


def _adapter_config(folder: Path) -> Any:
    with contextlib.suppress(FileNotFoundError, ValueError):
        config = json.loads((folder / CONFIG).read_bytes())
        return config if isinstance(config, dict) else None
    return None


def _odd_keys(config: dict[str, Any]) -> list[str]:
    """Names what a config sets beyond what gonbuild writes there: PEFT would load modules, or run patterns, by it."""
    plain = LoraConfig(task_type="CAUSAL_LM").to_dict()
    odd = [key for key in config.keys() - OWN if config[key] and config[key] != plain.get(key)]
    odd += [key for key in LISTS if not _is_list(config.get(key))]
    odd += [key for key in NUMBERS if type(config.get(key)) not in (int, float)]
    return sorted(odd)


def _is_list(value: Any) -> bool:
    """Tells whether a value is a list of names or of numbers, or nothing: PEFT takes a text for a pattern."""
    return value is None or (isinstance(value, list) and all(type(x) in (str, int) for x in value))


def _wrong_shapes(base: Base, folder: Path, config: dict[str, Any]) -> Iterator[Problem]:
    """Says where the matrices do not fit the base; PEFT would only warn of missing ones, and take others silently."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no dict
    except Exception as e:  # safetensors has an error class of its own, and file errors come as OSError
        # Whatever the system says of opening a file, safetensors says that there is none.
        lost = "it cannot be opened" if isinstance(e, FileNotFoundError) and path.exists() else ""
        if trouble := disk_trouble(e, FAILING) or lost:
            what = f"{WEIGHTS} cannot be read: {trouble}"
            raise MachineError(Problem(folder.name, what, "Is the disk sound?")) from e
        yield Problem(folder.name, f"{WEIGHTS} cannot be read: {e}", CURE)
        return
    wanted = {}
    layers = config.get("layers_to_transform")
    for name, module in base.model.named_modules():
        layer = re.search(r"layers\.(\d+)\.", name)
        if layers is not None and (layer is None or int(layer[1]) not in layers):
            continue
        if name.rpartition(".")[2] in config.get("target_modules", ()):
            wanted[f"base_model.model.{name}.lora_A.weight"] = (config.get("r"), module.in_features)
            wanted[f"base_model.model.{name}.lora_B.weight"] = (module.out_features, config.get("r"))
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted or name not in found:
            what = f"lacks {name}" if name in wanted else f"holds {name}, which {base.files.name} has no place for"
            yield Problem(folder.name, f"the adapter {what}", CURE)
            return
        if found[name] != wanted[name]:
            what = f"the adapter does not fit {base.files.name}: {name} is {found[name]}, {wanted[name]} wanted"
            yield Problem(folder.name, what, CURE)
            return


@contextlib.contextmanager
def nothing_printed() -> Iterator[None]:
    """Keeps the libraries' log lines, bars and prints to themselves while a step runs."""
    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets", "peft")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what the libraries call in each other
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
