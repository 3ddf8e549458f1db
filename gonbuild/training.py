"""Owns training a LoRA adapter; chooses no rows, samples nothing, and leaves the base as it was."""

import atexit
import contextlib
import importlib.metadata
import importlib.util
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gonbuild.model import Base, Reader  # before the libraries: it sets the environment that they read

# isort: split
import datasets
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import deterministic
from transformers import set_seed

from gonbuild.adapter import CONFIG, detach_adapter, nothing_printed
from gonbuild.disk import SEAL, is_sealed
from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.ranks import processes
from gonbuild.records import Progress, Row, quiet
from gonbuild.settings import AdapterSettings
from gonbuild.trainer import NO_JOURNAL, Journal, Trainer, Watcher, trainer_config

# All but cuDNN's, which takes a second to build for each new length and sums in no fixed order.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate")


@dataclass(frozen=True)
class Training:
    """What a training did."""

    losses: tuple[tuple[int, float], ...]
    """(update, mean loss of its completion tokens in nats), from 1 on."""
    seconds: float
    """Of the last run where a training was interrupted."""
    tokens: int
    """Tokens of the rows, epochs counted."""
    versions: dict[str, str]
    """Of the libraries that decide the outcome; recorded, part of no key."""


def train_adapter(
    base: Base,
    rows: Sequence[Row],
    settings: AdapterSettings,
    folder: Path,
    progress: Progress = quiet,
    journal: Journal = NO_JOURNAL,
) -> Training:
    """Trains a LoRA adapter on the rows' completions and writes it into an existing folder, in PEFT's format.

    The same rows, in the same order, and settings give the same bytes on one machine, also where the journal holds a
    checkpoint of the same training to go on from. The base is as before afterwards. Where several processes train
    together, each calls this, and the first one writes.

    Raises:
        InputError: no rows, rows longer than `max_tokens` (all are named), or `targets` that the base has not.
        MachineError: memory or disk ran out, the loss became infinite or no number, or a tracker is not installed.
    """
    _check_tracker(journal.report_to)
    began = time.monotonic()
    encoded = encode_rows(base, rows, settings)
    watcher = Watcher(progress)
    datasets.disable_progress_bars()
    with nothing_printed(), repeatable():
        set_seed(settings.seed)  # before LoRA's matrices are drawn
        try:
            detach_adapter(base)  # one that candidates were drawn with
            trainer = Trainer(
                [len(ids) for ids, _ in encoded],
                settings,
                model=_adapted(base, settings),
                args=trainer_config(base, settings, folder, journal),
                train_dataset=Dataset.from_list([{"input_ids": ids, "start": start} for ids, start in encoded]),
                processing_class=base.tokenizer,
                callbacks=[watcher],
            )
            trainer.train(resume_from_checkpoint=_last_checkpoint(journal))
            if not watcher.broken and trainer.is_world_process_zero():
                save_adapter(trainer.model, base.files.name, folder)
        except torch.OutOfMemoryError as e:
            wanted = "Lower adapter.batch_size and raise adapter.accumulation by as much."
            raise MachineError(Problem("", f"memory ran out while training: {e}", wanted)) from None
        except ValueError as e:
            if "target modules" not in str(e).lower():
                raise
            raise InputError(Problem("pyproject.toml", f"adapter.targets: {e}")) from None
        finally:
            restore(base)
    if watcher.broken:
        raise MachineError(_diverged(watcher.broken, journal))
    losses = [(log["step"], float(log["loss"])) for log in trainer.state.log_history if "loss" in log]
    tokens = round(sum(len(ids) for ids, _ in encoded) * settings.epochs)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return Training(tuple(losses), time.monotonic() - began, tokens, versions)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Keeps a GPU from sums whose order changes from run to run."""
    earlier = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    # Nothing here reads memory that nobody wrote, and filling it takes time.
    fill, deterministic.fill_uninitialized_memory = deterministic.fill_uninitialized_memory, False  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings(), sdpa_kernel(ATTENTION):
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.set_deterministic_debug_mode(earlier)
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _check_tracker(name: str) -> None:
    packages = {"none": ("torch",), "tensorboard": ("tensorboard", "tensorboardX")}.get(name, (name,))
    if not any(importlib.util.find_spec(package) for package in packages):
        what = f"machine.report_to is '{name}', and that package is not installed"
        raise MachineError(Problem("pyproject.toml", what, f'`pip install {name}`, or "none".'))


def agree(device: str, wait_s: float, *, train: bool) -> bool:
    """Agrees among the processes of a launch whether to train: what the first one says within the time, all return."""
    state = PartialState(cpu=device == "cpu", timeout=timedelta(seconds=wait_s))  # makes the process group
    atexit.register(state.destroy_process_group)
    word = [train]
    broadcast_object_list(word)
    return word[0]


def _last_checkpoint(journal: Journal) -> str | None:
    """Returns the newest checkpoint that is as it was written: its seal is the last of its files."""
    if journal.folder is None:
        return None
    seals = journal.folder.glob(f"checkpoint-*/{SEAL}")
    whole = [seal.parent for seal in seals if is_sealed(seal.parent) and _has_each_dropout(seal.parent)]
    return str(max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]))) if whole else None


def _has_each_dropout(checkpoint: Path) -> bool:
    """Tells whether a checkpoint holds the random state of each process of this launch, and of no other."""
    count = processes()
    wanted = {"rng_state.pth"} if count == 1 else {f"rng_state_{number}.pth" for number in range(count)}
    return {path.name for path in checkpoint.glob("rng_state*.pth")} == wanted


def _diverged(what: str, journal: Journal) -> Problem:
    last = _last_checkpoint(journal)
    kept = f" The last good checkpoint is kept: {last}." if last else ""
    wanted = f"Lower adapter.learning_rate, or look at the rows for what is no text.{kept}"
    return Problem("", f"training diverged: the loss of {what}", wanted)


def _adapted(base: Base, settings: AdapterSettings) -> Any:
    with base.device:  # where drawing LoRA's start takes no time
        model = get_peft_model(base.model, lora_config(base, settings))
    model.peft_config["default"].base_model_name_or_path = ""  # else a checkpoint looks for it on the hub
    return model


def restore(base: Base) -> None:
    """Takes from a base what a training put on it."""
    base.model.__dict__.pop("forward", None)  # ours
    base.model.gradient_checkpointing_disable()
    base.model.disable_input_require_grads()
    detach_adapter(base)


def lora_config(base: Base, settings: AdapterSettings) -> LoraConfig:
    layers = base.model.config.num_hidden_layers
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        layers_to_transform=list(range(layers))[-settings.last_layers :] if settings.last_layers else None,
        bias="none",
        task_type="CAUSAL_LM",
    )


def save_adapter(model: Any, name: str, folder: Path) -> None:
    """Writes weights and config in PEFT's format, without machine paths and with the same bytes each time."""
    model.peft_config["default"].base_model_name_or_path = name
    # False: no look at the hub whether the base there has the same vocabulary.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / CONFIG).read_bytes())
    config["target_modules"] = sorted(config["target_modules"])  # a set in PEFT, written in hash order
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def encode_rows(base: Reader, rows: Sequence[Row], settings: AdapterSettings) -> list[tuple[list[int], int]]:
    """Returns each row's token ids and the index of the first one that is learned.

    Raises:
        InputError: no rows, or rows that are too long; all are named.
    """
    if not rows:
        wanted = "Give cards `examples:`, or raise dataset.examples."
        raise InputError(Problem("cards", "no story to train on", wanted))
    encoded = [base.encode_row(row) for row in rows]
    limit = min(settings.max_tokens, base.context)
    setting = "adapter.max_tokens" if limit == settings.max_tokens else f"what {base.files.name} takes"
    wanted = f"Wanted at most {limit}, {setting}."
    problems = [
        Problem(row.where, f"a story of '{row.source}' and its prompt have {len(ids)} tokens", wanted)
        for row, (ids, _) in zip(rows, encoded, strict=True)
        if len(ids) > limit
    ]
    if problems:
        raise InputError(problems)
    return encoded
