"""Owns letting an adapter learn from reviewers' marks with trl's DPO and KTO; trains no adapter from nothing."""

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
import datasets
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from gonbuild.adapter import detach_adapter, nothing_printed
from gonbuild.errors import MachineError, Problem
from gonbuild.preferences import balance, marked_rows, require_marks
from gonbuild.qlora import compute_together
from gonbuild.records import Marked, Preferences, Progress, digest, quiet
from gonbuild.settings import AdapterSettings
from gonbuild.trainer import NO_JOURNAL, Watcher, build_config, trainer_options
from gonbuild.training import encode_rows, repeatable, restore, save_adapter

LEARNING = "learning from marks"
LIKED_WEIGHT = 1.0
"""What the liked stories' own loss, nats per token, counts beside DPO's: from pairs alone an adapter soon writes on and
on (embedded base, 3 passes over some 80 pairs with beta 0.1, 3e-4: 35% of its candidates passed the filters, 62% with
this, 65% before)."""
FEWEST_AT_ONCE = 2
"""Stories of a batch of KTO at least: its estimate of how far the adapter has gone takes another story's prompt."""


@dataclass(frozen=True)
class Preferring:
    """What learning from marks did."""

    method: str
    read: int
    """Pairs of `dpo`, marked stories of `kto`."""
    losses: tuple[tuple[int, float], ...]
    """(update, mean loss of its pairs or stories by the method's formula), from 1 on."""
    seconds: float


def prefer(
    base: Base, preferences: Preferences, settings: AdapterSettings, folder: Path, progress: Progress = quiet
) -> Preferring:
    """Lets the adapter of a folder learn from marks by `settings.method`, and writes it there again.

    What it is held to is the adapter as it was before: trl keeps a copy of it beside the one that learns. The same
    adapter, marks and settings give the same bytes on one machine. The base is as before afterwards.

    Raises:
        InputError: no marks that the method can learn from, or stories longer than `max_tokens` (all are named).
        MachineError: memory or disk ran out, or the loss became infinite or no number.
    """
    began = time.monotonic()
    require_marks(preferences, settings.method)
    encode_rows(base, marked_rows(preferences), settings)
    watcher = Watcher(progress, LEARNING)
    datasets.disable_progress_bars()
    with nothing_printed(), repeatable():
        # Of trl's own passes without gradients, where gradient checkpointing is on.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        set_seed(settings.seed)
        try:
            detach_adapter(base)
            model = PeftModel.from_pretrained(base.model, folder, is_trainable=True, use_safetensors=True)
            with _no_bar():
                trainer = _trainer(base, model, preferences, settings, folder)
            trainer.add_callback(watcher)
            trainer.train()
            if not watcher.broken:
                save_adapter(model, base.files.name, folder)
        except torch.OutOfMemoryError as e:
            wanted = "Lower adapter.batch_size and raise adapter.accumulation by as much."
            raise MachineError(Problem("", f"memory ran out while {LEARNING}: {e}", wanted)) from None
        finally:
            restore(base)
    if watcher.broken:
        wanted = "Lower adapter.preference_learning_rate, or raise adapter.preference_beta."
        raise MachineError(Problem("", f"{LEARNING} diverged: the loss of {watcher.broken}", wanted))
    losses = tuple((log["step"], float(log["loss"])) for log in trainer.state.log_history if "loss" in log)
    return Preferring(settings.method, len(trainer.train_dataset), losses, time.monotonic() - began)


def _trainer(base: Base, model: Any, preferences: Preferences, settings: AdapterSettings, folder: Path) -> Any:
    """Returns trl's trainer of the method over an adapted model."""
    options = {
        **trainer_options(base, settings, folder, NO_JOURNAL),
        "num_train_epochs": settings.preference_epochs,
        "learning_rate": settings.preference_learning_rate,
        "beta": settings.preference_beta,
        "precompute_ref_log_probs": True,  # once, instead of with each update
    }
    told: list[dict[str, Any]]
    if settings.method == "dpo":
        options |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, LIKED_WEIGHT]}
        kind, config = DPOTrainer, build_config(DPOConfig, options)
        told = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in preferences.pairs]
    else:
        rows = _mixed(preferences.rows, settings.seed)
        liked, banned = balance(rows)
        options |= {
            "per_device_train_batch_size": max(settings.batch_size, FEWEST_AT_ONCE),
            "desirable_weight": liked,
            "undesirable_weight": banned,
        }
        kind, config = KTOTrainer, build_config(KTOConfig, options)
        told = [{"prompt": r.prompt, "completion": r.completion, "label": r.liked} for r in rows]
    trainer = kind(model=model, args=config, train_dataset=Dataset.from_list(told), processing_class=base.tokenizer)
    if base.quantized:
        compute_together(model)
    return trainer


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """Keeps the bar off the terminal that trl shows while it reads the marks; it asks the environment alone."""
    earlier = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TQDM_DISABLE"]
        if earlier is not None:
            os.environ["TQDM_DISABLE"] = earlier


def _mixed(rows: tuple[Marked, ...], seed: int) -> list[Marked]:
    """Returns the rows in an order that knows no card: trl reads them as they come, and pairs neighbours' prompts."""
    return sorted(rows, key=lambda r: digest([seed, r.prompt, r.completion]))
