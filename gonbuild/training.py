"""Owns training a LoRA adapter; chooses no rows, samples nothing, and leaves the base as it was."""

import atexit
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MethodType
from typing import Any

from gonbuild.model import Base, Reader  # before the libraries: it sets the environment that they read

# isort: split
import datasets
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import deterministic
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, set_seed
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from gonbuild.adapter import CONFIG, detach_adapter, nothing_printed
from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.packing import IGNORED, attention_mask, pack
from gonbuild.qlora import compute_together
from gonbuild.ranks import processes
from gonbuild.records import Progress, Row, quiet
from gonbuild.settings import AdapterSettings

# transformers 5.17 and 5.23 name the same option differently.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in SFTConfig.__dataclass_fields__
)
MULTIPLE = 128
"""What a pass is padded to on a GPU, tokens: each new length costs the host more, once, than it saves the GPU."""
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


@dataclass(frozen=True)
class Journal:
    """What a training leaves on its way; nothing of it decides the outcome."""

    folder: Path | None = None
    """Where checkpoints are kept and looked for; None for neither."""
    every: int = 0
    """Updates between checkpoints, 0 for none."""
    report_to: str = "none"
    """A tracker by transformers' name."""


def train_adapter(
    base: Base,
    rows: Sequence[Row],
    settings: AdapterSettings,
    folder: Path,
    progress: Progress = quiet,
    journal: Journal = Journal(),
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
    watcher = _Watcher(progress)
    datasets.disable_progress_bars()
    with nothing_printed(), _repeatable():
        set_seed(settings.seed)  # before LoRA's matrices are drawn
        try:
            detach_adapter(base)  # one that candidates were drawn with
            trainer = _Trainer(
                [len(ids) for ids, _ in encoded],
                settings,
                model=_adapted(base, settings),
                args=_config(base, settings, folder, journal),
                train_dataset=Dataset.from_list([{"input_ids": ids, "start": start} for ids, start in encoded]),
                processing_class=base.tokenizer,
                callbacks=[watcher],
            )
            trainer.train(resume_from_checkpoint=_last_checkpoint(journal))
            if not watcher.broken and trainer.is_world_process_zero():
                _save(trainer.model, base.files.name, folder)
        except torch.OutOfMemoryError as e:
            wanted = "Lower adapter.batch_size and raise adapter.accumulation by as much."
            raise MachineError(Problem("", f"memory ran out while training: {e}", wanted)) from None
        except ValueError as e:
            if "target modules" not in str(e).lower():
                raise
            raise InputError(Problem("pyproject.toml", f"adapter.targets: {e}")) from None
        finally:
            _restore(base)
    if watcher.broken:
        raise MachineError(_diverged(watcher.broken, journal))
    losses = [(log["step"], float(log["loss"])) for log in trainer.state.log_history if "loss" in log]
    tokens = round(sum(len(ids) for ids, _ in encoded) * settings.epochs)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return Training(tuple(losses), time.monotonic() - began, tokens, versions)


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
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
    """Returns the newest checkpoint that was written whole: the state is the last of its files."""
    if journal.folder is None:
        return None
    states = journal.folder.glob("checkpoint-*/trainer_state.json")
    whole = [state.parent for state in states if _is_json(state) and _has_each_dropout(state.parent)]
    return str(max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]))) if whole else None


def _has_each_dropout(checkpoint: Path) -> bool:
    """Tells whether a checkpoint holds the random state of each process of this launch, and of no other."""
    count = processes()
    wanted = {"rng_state.pth"} if count == 1 else {f"rng_state_{number}.pth" for number in range(count)}
    return {path.name for path in checkpoint.glob("rng_state*.pth")} == wanted


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _diverged(what: str, journal: Journal) -> Problem:
    last = _last_checkpoint(journal)
    kept = f" The last good checkpoint is kept: {last}." if last else ""
    wanted = f"Lower adapter.learning_rate, or look at the rows for what is no text.{kept}"
    return Problem("", f"training diverged: the loss of {what}", wanted)


class _Trainer(SFTTrainer):  # type: ignore[misc]  # the library has no types here
    """trl's trainer, which reads packed passes, and whose order of rows depends on nothing but lengths, seed and epoch.

    trl pads rows, reads the prompt's beginning in each of them, and makes the logits in tiles and once more in the
    backward pass; for short stories that takes several times as long.
    """

    def __init__(self, lengths: Sequence[int], settings: AdapterSettings, **options: Any) -> None:
        super().__init__(**options)
        base = self.model.get_base_model()
        base.forward = MethodType(_nats, base)  # in place of trl's
        if getattr(base, "is_loaded_in_4bit", False):
            compute_together(self.model)
        self._lengths, self._settings = lengths, settings

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Gives each process its share of every batch, so that their number changes no batch."""
        share = slice(self.args.process_index, None, self.args.world_size)
        pad = self.processing_class.pad_token_id
        multiple = MULTIPLE if self.args.device.type == "cuda" else 1

        def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            own = [(row["input_ids"], row["start"]) for row in rows[share]]
            # A process without a row of its own takes part with one that teaches nothing.
            packed = pack(own or [(rows[0]["input_ids"], len(rows[0]["input_ids"]))], pad, multiple)
            return {**packed, "labels": packed["shift_labels"]}  # by which the Trainer counts what is learned

        batches = _Batches(self._lengths, self._settings, lambda: int(self.state.epoch or 0))
        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=collate)

    def _load_from_checkpoint(self, *args: Any, **options: Any) -> None:
        """Reads a checkpoint's matrices in the type they were trained in; PEFT makes 32 bits of 16."""
        types = {name: p.dtype for name, p in self.model.named_parameters() if p.requires_grad}
        super()._load_from_checkpoint(*args, **options)
        for name, p in self.model.named_parameters():
            if name in types:
                p.data = p.data.to(types[name])

    def compute_loss(self, model: Any, inputs: Any, *_: Any, num_items_in_batch: Any) -> Any:
        return model(**inputs) * self.args.world_size / num_items_in_batch  # DDP takes the mean of the processes


class _Batches(Sampler[list[int]]):
    """The rows of each batch of an epoch; grouped by length, the longest come first, where memory runs out at once."""

    def __init__(self, lengths: Sequence[int], settings: AdapterSettings, epoch: Callable[[], int]) -> None:
        self.lengths, self.settings, self.epoch = lengths, settings, epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed((self.settings.seed << 16) + self.epoch())
        size = self.settings.batch_size
        if self.settings.group_by_length:
            order = get_length_grouped_indices(self.lengths, size * self.settings.accumulation, generator=generator)
        else:
            order = torch.randperm(len(self.lengths), generator=generator).tolist()
        return (order[at : at + size] for at in range(0, len(order), size))

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.settings.batch_size)


def _nats(
    model: Any, input_ids: Tensor, position_ids: Tensor, segments: Tensor, shift_labels: Tensor, **_: Any
) -> Tensor:
    """Returns the nats of a packed pass's learned tokens, summed."""
    hidden = model.base_model(
        input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask(segments), use_cache=False
    ).last_hidden_state
    learned = shift_labels != IGNORED
    logits = model.get_output_embeddings()(hidden[learned])  # (learned tokens, vocabulary)
    return F.cross_entropy(logits.float(), shift_labels[learned], reduction="sum")


class _Watcher(TrainerCallback):  # type: ignore[misc]  # the library has no types here
    """Passes progress on, and stops a training that has gone wrong before a checkpoint of it is written."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.broken = ""

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.progress("training", state.global_step, state.max_steps)

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), logs.get("grad_norm", 0.0)
        self.progress("training", state.global_step, state.max_steps, loss)
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.broken = f"update {state.global_step} is {loss}, its gradient's norm {norm}"
            control.should_training_stop = True
        if self.broken or state.global_step >= state.max_steps:
            control.should_save = False  # a training that goes on from its own end would do an update too many


def _config(base: Base, settings: AdapterSettings, folder: Path, journal: Journal) -> SFTConfig:
    """Says everything that trl would choose by itself, or do beside training."""
    cpu = base.device.type == "cpu"
    config = SFTConfig(
        output_dir=str(journal.folder or folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,  # all devices' together: `_Trainer` shares it out
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup if settings.warmup < 1 else 0.999999,  # below 1 it is a share
        max_grad_norm=settings.max_grad_norm,
        weight_decay=settings.weight_decay,
        optim=settings.optimizer,
        # The other kind of checkpointing hooks every tensor, which costs the host more time than it takes a GPU.
        **{CHECKPOINTING: settings.gradient_checkpointing, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}},
        seed=settings.seed,
        data_seed=settings.seed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        use_cpu=cpu,
        bf16=False,  # no autocast: weights and LoRA have the type to compute in
        fp16=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=not cpu,
        ddp_find_unused_parameters=False,
        save_strategy="steps" if journal.folder and journal.every else "no",
        save_steps=max(journal.every, 1),
        save_total_limit=2,
        eval_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=journal.report_to,
        run_name=journal.folder.name[:8] if journal.folder else None,
        disable_tqdm=True,
        push_to_hub=False,
    )
    config.mixed_precision = "no"  # else that of the launcher's own configuration
    return config


def _adapted(base: Base, settings: AdapterSettings) -> Any:
    with base.device:  # where drawing LoRA's start takes no time
        model = get_peft_model(base.model, _lora(base, settings))
    model.peft_config["default"].base_model_name_or_path = ""  # else a checkpoint looks for it on the hub
    return model


def _restore(base: Base) -> None:
    """Takes from a base what a training put on it."""
    base.model.__dict__.pop("forward", None)  # ours
    base.model.gradient_checkpointing_disable()
    base.model.disable_input_require_grads()
    detach_adapter(base)


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
