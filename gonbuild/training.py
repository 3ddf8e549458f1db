"""Owns training a LoRA adapter; chooses no rows, samples nothing, and leaves the base as it was."""

import importlib.metadata
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
import datasets
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from gonbuild.adapter import CONFIG, detach_adapter, nothing_printed
from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.records import Progress, Row, quiet
from gonbuild.settings import AdapterSettings

IGNORED = -100
"""The label of a token that is not learned."""
# transformers 5.17 and 5.23 name the same option differently.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in SFTConfig.__dataclass_fields__
)
LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate")


@dataclass(frozen=True)
class Training:
    """What a training did."""

    losses: tuple[tuple[int, float], ...]
    """(update, mean loss of its completion tokens in nats), from 1 on."""
    seconds: float
    tokens: int
    """Tokens that the model read, epochs counted, padding not."""
    versions: dict[str, str]
    """Of the libraries that decide the outcome; recorded, part of no key."""


def train_adapter(
    base: Base, rows: Sequence[Row], settings: AdapterSettings, folder: Path, progress: Progress = quiet
) -> Training:
    """Trains a LoRA adapter on the rows' completions and writes it into an existing folder, in PEFT's format.

    The same rows, in the same order, and settings give the same bytes on one machine. The base is as before afterwards.

    Raises:
        InputError: no rows, rows longer than `max_tokens` (all are named), or `targets` that the base has not.
        MachineError: memory ran out, or the loss became infinite or no number.
    """
    began = time.monotonic()
    encoded = _encode(base, rows, settings)
    watcher = _Watcher(progress)
    datasets.disable_progress_bars()
    with nothing_printed():
        set_seed(settings.seed)  # before LoRA's matrices are drawn
        try:
            trainer = _Trainer(
                model=base.model,
                args=_config(base, settings, folder),
                train_dataset=Dataset.from_list([_labelled(ids, start) for ids, start in encoded]),
                processing_class=base.tokenizer,
                peft_config=_lora(base, settings),
                callbacks=[watcher],
            )
            trainer.train()
            if not watcher.broken:
                _save(trainer.model, base.files.name, folder)
        except torch.OutOfMemoryError as e:
            wanted = "Lower adapter.batch_size and raise adapter.accumulation by as much."
            raise MachineError(Problem("", f"memory ran out while training: {e}", wanted)) from None
        except ValueError as e:
            if "target modules" not in str(e).lower():
                raise
            raise InputError(Problem("pyproject.toml", f"adapter.targets: {e}")) from None
        finally:
            base.model.__dict__.pop("forward", None)  # trl's, for this training alone
            detach_adapter(base)
    if watcher.broken:
        wanted = "Lower adapter.learning_rate, or look at the rows for what is no text."
        raise MachineError(Problem("", f"training diverged: the loss of {watcher.broken}", wanted))
    tokens = round(sum(len(ids) for ids, _ in encoded) * settings.epochs)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return Training(tuple(watcher.losses), time.monotonic() - began, tokens, versions)


class _Trainer(SFTTrainer):  # type: ignore[misc]  # the library has no types here
    """trl's trainer, which on the CPU reads what a batch's rows have in common once, and makes the logits that count.

    All prompts start with the system turn, about half of a short row. trl reads it in every row and makes the logits in
    tiles and once more in the backward pass, to save a GPU's memory; on the CPU that takes twice the time.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.args.device.type != "cpu" or getattr(self.args, CHECKPOINTING):  # which keeps no cache
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        base = model.get_base_model()
        ids, labels = inputs["input_ids"], inputs["labels"]  # (rows, longest) each
        shared = _shared(ids, labels)
        cache = base.base_model(input_ids=ids[:1, :shared], use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(ids))
        rest = base.base_model(
            input_ids=ids[:, shared:], attention_mask=inputs["attention_mask"], past_key_values=cache, use_cache=True
        )
        labels = labels[:, shared + 1 :]
        counted = labels != IGNORED
        logits = base.get_output_embeddings()(rest.last_hidden_state[:, :-1][counted])
        return F.cross_entropy(logits, labels[counted], reduction="sum") / num_items_in_batch


def _shared(ids: torch.Tensor, labels: torch.Tensor) -> int:
    """Counts the leading tokens, one at least, that all rows have in common and that foretell none that is learned."""
    alike = (ids == ids[:1]).all(dim=0)
    unlearned = (labels == IGNORED).all(dim=0)
    return max(1, int((alike[:-1] & unlearned[1:]).cumprod(dim=0).sum()))


class _Watcher(TrainerCallback):  # type: ignore[misc]  # the library has no types here
    """Passes progress on, collects the losses, and stops a training that has gone wrong."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.losses: list[tuple[int, float]] = []
        self.broken = ""

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.progress("training", 0, state.max_steps)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.progress("training", state.global_step, state.max_steps)

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        self.losses.append((state.global_step, loss))
        if not math.isfinite(loss) or not math.isfinite(logs.get("grad_norm", 0.0)):
            self.broken = f"update {state.global_step} is {loss}, its gradient's norm {logs.get('grad_norm')}"
            control.should_training_stop = True


def _config(base: Base, settings: AdapterSettings, folder: Path) -> SFTConfig:
    """Says everything that trl would choose by itself, or do beside training."""
    cpu = base.device.type == "cpu"
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup if settings.warmup < 1 else 0.999999,  # below 1 it is a share
        max_grad_norm=settings.max_grad_norm,
        weight_decay=settings.weight_decay,
        optim=settings.optimizer,
        **{CHECKPOINTING: settings.gradient_checkpointing},
        seed=settings.seed,
        data_seed=settings.seed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
        use_cpu=cpu,
        bf16=not cpu and base.dtype == torch.bfloat16,
        fp16=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=not cpu,
        save_strategy="no",
        eval_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )


def _lora(base: Base, settings: AdapterSettings) -> LoraConfig:
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


def _save(model: Any, name: str, folder: Path) -> None:
    """Writes weights and config in PEFT's format, without machine paths and with the same bytes each time."""
    model.peft_config["default"].base_model_name_or_path = name
    # False: no look at the hub whether the base there has the same vocabulary.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / CONFIG).read_bytes())
    config["target_modules"] = sorted(config["target_modules"])  # a set in PEFT, written in hash order
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _encode(base: Base, rows: Sequence[Row], settings: AdapterSettings) -> list[tuple[list[int], int]]:
    if not rows:
        wanted = "Give cards `examples:`, or raise dataset.examples."
        raise InputError(Problem("cards", "no story to train on", wanted))
    encoded = [base.encode_row(row) for row in rows]
    limit = min(settings.max_tokens, base.context)
    setting = "adapter.max_tokens" if limit == settings.max_tokens else f"what {base.files.name} takes"
    wanted = f"Wanted at most {limit}, {setting}."
    problems = [
        Problem("", f"a story of '{row.source}' and its prompt have {len(ids)} tokens", wanted)
        for row, (ids, _) in zip(rows, encoded, strict=True)
        if len(ids) > limit
    ]
    if problems:
        raise InputError(problems)
    return encoded


def _labelled(ids: Sequence[int], start: int) -> dict[str, list[int]]:
    """Returns a row as trl prepares it: labels count the completion alone."""
    return {"input_ids": list(ids), "labels": [IGNORED] * start + list(ids[start:])}
