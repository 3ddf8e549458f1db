"""Owns training a LoRA adapter and putting one on a base; samples nothing, and chooses no rows."""

import contextlib
import importlib.metadata
import io
import json
import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
import datasets
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from transformers import TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.records import Progress, Row, quiet
from gonbuild.settings import AdapterSettings

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
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
    with _nothing_printed():
        set_seed(settings.seed)  # before LoRA's matrices are drawn
        try:
            trainer = SFTTrainer(
                model=base.model,
                args=_config(base, settings, folder),
                train_dataset=Dataset.from_list([_labelled(ids, start) for ids, start in encoded]),
                processing_class=base.tokenizer,
                peft_config=_lora(settings),
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
            _strip(base.model)
    if watcher.broken:
        wanted = "Lower adapter.learning_rate, or look at the rows for what is no text."
        raise MachineError(Problem("", f"training diverged: the loss of {watcher.broken}", wanted))
    tokens = round(sum(len(ids) for ids, _ in encoded) * settings.epochs)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return Training(tuple(watcher.losses), time.monotonic() - began, tokens, versions)


def attach_adapter(base: Base, folder: Path) -> Base:
    """Returns the base with the adapter of a folder.

    On the CPU the adapter is merged into a copy, which samples faster, and `base` stays as it is. On a GPU there is one
    model: it carries the adapter, in place of an earlier one, until `detach_adapter`.

    Raises:
        InputError: no adapter in safetensors there, or one that was made for another base.
    """
    _check_adapter(base, folder)
    merge = base.device.type == "cpu" and not base.quantized
    model = deepcopy(base.model) if merge else base.model
    _strip(model)
    with _nothing_printed():
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=False, use_safetensors=True).eval()
    return replace(base, model=adapted.merge_and_unload() if merge else adapted)


def detach_adapter(base: Base) -> None:
    """Takes the adapter off a base whose model carries one; a base that carries none stays as it is."""
    _strip(base.model)


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
        activation_checkpointing=settings.gradient_checkpointing,
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


def _lora(settings: AdapterSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
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
    return {"input_ids": list(ids), "labels": [-100] * start + list(ids[start:])}


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
        problems.append(Problem(where, f"the adapter has no {WEIGHTS}{pickles}", "Train it again: `gonbuild train`."))
    if config is None:
        problems.append(Problem(where, f"the adapter has no readable {CONFIG}", "Train it again: `gonbuild train`."))
    elif config.get("base_model_name_or_path") != base.files.name:
        made_for = config.get("base_model_name_or_path")
        what = f"the adapter was made for '{made_for}', and model.base is '{base.files.name}'"
        problems.append(Problem(where, what, "Set model.base to the one, or train again for the other."))
    elif config.get("auto_mapping") or config.get("peft_type") != "LORA":
        problems.append(Problem(where, "the adapter is not a plain LoRA", "Train it again: `gonbuild train`."))
    problems = problems or list(_wrong_shapes(base, folder, config))
    if problems:
        raise InputError(problems)


def _adapter_config(folder: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / CONFIG).read_bytes())
        return config if isinstance(config, dict) else None
    return None


def _wrong_shapes(base: Base, folder: Path, config: dict[str, Any]) -> Iterator[Problem]:
    """Says where the matrices do not fit the base; PEFT would only warn of missing ones, and take others silently."""
    cure = "Train it again: `gonbuild train`."
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no dict
    except Exception as e:  # safetensors has an error class of its own, and file errors come as OSError
        yield Problem(folder.name, f"{WEIGHTS} cannot be read: {e}", cure)
        return
    wanted = {}
    for name, module in base.model.named_modules():
        if name.rpartition(".")[2] in config.get("target_modules", ()):
            wanted[f"base_model.model.{name}.lora_A.weight"] = (config.get("r"), module.in_features)
            wanted[f"base_model.model.{name}.lora_B.weight"] = (module.out_features, config.get("r"))
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted or name not in found:
            what = f"lacks {name}" if name in wanted else f"holds {name}, which {base.files.name} has no place for"
            yield Problem(folder.name, f"the adapter {what}", cure)
            return
        if found[name] != wanted[name]:
            what = f"the adapter does not fit {base.files.name}: {name} is {found[name]}, {wanted[name]} wanted"
            yield Problem(folder.name, what, cure)
            return


@contextlib.contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keeps the libraries' log lines, bars and prints to themselves while a step runs."""
    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets", "peft")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what the libraries call in each other
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
