"""Owns trl's trainer as gonbuild uses it: what a pass reads, in which order, with which options; saves no adapter."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from gonbuild.disk import seal
from gonbuild.packing import IGNORED, attention_mask, pack
from gonbuild.qlora import compute_together
from gonbuild.records import Progress
from gonbuild.settings import AdapterSettings

# transformers 5.17 and 5.23 name the same option differently.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in SFTConfig.__dataclass_fields__
)
MULTIPLE = 128
"""What a pass is padded to on a GPU, tokens: each new length costs the host more, once, than it saves the GPU."""


@dataclass(frozen=True)
class Journal:
    """What a training leaves on its way; nothing of it decides the outcome."""

    folder: Path | None = None
    """Where checkpoints are kept and looked for; None for neither."""
    every: int = 0
    """Updates between checkpoints, 0 for none."""
    report_to: str = "none"
    """A tracker by transformers' name."""


NO_JOURNAL = Journal()


class Trainer(SFTTrainer):  # type: ignore[misc]  # the library has no types here
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

        batches = Batches(self._lengths, self._settings, lambda: int(self.state.epoch or 0))
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


class Batches(Sampler[list[int]]):
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


class Watcher(TrainerCallback):  # type: ignore[misc]  # the library has no types here
    """Passes progress on, and stops a training that has gone wrong before a checkpoint of it is written."""

    def __init__(self, progress: Progress, what: str = "training") -> None:
        self.progress, self.what = progress, what
        self.broken = ""

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.progress(self.what, state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Seals a checkpoint once each process has written its part: nobody goes on from one that changed since."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), logs.get("grad_norm", 0.0)
        self.progress(self.what, state.global_step, state.max_steps, loss)
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.broken = f"update {state.global_step} is {loss}, its gradient's norm {norm}"
            control.should_training_stop = True
        if self.broken or state.global_step >= state.max_steps:
            control.should_save = False  # a training that goes on from its own end would do an update too many


def trainer_config(base: Base, settings: AdapterSettings, folder: Path, journal: Journal) -> SFTConfig:
    """Says everything that trl would choose by itself, or do beside training."""
    options = trainer_options(base, settings, folder, journal)
    return build_config(SFTConfig, {**options, "dataset_kwargs": {"skip_prepare_dataset": True}})


def build_config(kind: Any, options: dict[str, Any]) -> Any:
    """Makes a config of one of trl's kinds, without autocast, which the launcher's own configuration might ask for."""
    config = kind(**options)
    config.mixed_precision = "no"
    return config


def trainer_options(base: Base, settings: AdapterSettings, folder: Path, journal: Journal) -> dict[str, Any]:
    """Returns what each of trl's trainers is told."""
    cpu = base.device.type == "cpu"
    return dict(
        output_dir=str(journal.folder or folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,  # all devices' together: `Trainer` shares it out
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
