"""Owns the road from settings to base model, adapter and engine, and loads each only when it is first needed.

The pipeline talks to this class alone, so a test can put a small fake in its place.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gonbuild.base import NANO_FOLDER, BaseFiles, identity_inputs, locate_base
from gonbuild.memory import (
    TYPICAL_ROW,
    Need,
    Pass,
    Shape,
    generation_need,
    largest_pass,
    merged_bytes,
    merging_need,
    padded_pass,
    training_need,
    typical_pass,
)
from gonbuild.preferences import marked_rows, require_marks
from gonbuild.ranks import processes
from gonbuild.records import NO_PREFERENCES, Candidate, Preferences, Progress, Request, Row, quiet
from gonbuild.settings import PROFILES, Settings, parse_settings
from gonbuild.store import Store

if TYPE_CHECKING:
    from gonbuild.prompts import Templates

LOADING = "loading the model"


class Models:
    """The real models of a project; `identity` and `held_out` load nothing heavy."""

    def __init__(self, root: Path, settings: Settings, store: Store) -> None:
        self._root, self._settings, self._store = root, settings, store
        self._agreed = False
        self._drawn_with: tuple[Path | None, Any] | None = None

    def identity(self) -> str:
        """Returns what identifies the base, its weights' hash remembered while the files stay as they are."""
        files = self._files
        if files.folder is None:
            return files.identity
        return str(self._store.memo("identity", identity_inputs(files.folder), lambda: files.identity))

    def held_out(self) -> frozenset[str]:
        """Returns the names of example cards that no model here is trained on."""
        return frozenset((NANO_FOLDER / "held-out.txt").read_text(encoding="utf-8").split("\n")) - {""}

    def train(
        self,
        rows: Sequence[Row],
        folder: Path,
        work: Path,
        progress: Progress,
        preferences: Preferences = NO_PREFERENCES,
    ) -> None:
        """Trains an adapter on the rows and writes it, with its loss curve, into an empty folder.

        It learns from the preferences then where `adapter.method` says so. Checkpoints go into `work`, and a training
        that left some there goes on from the last.
        """
        require_marks(preferences, self._settings.adapter.method)
        if processes() > 1:
            self._agree(train=True)
        from gonbuild.dataset import row_counts

        training = self._train(rows, folder, work, progress, preferences)
        learned = self._prefer(preferences, folder, progress)
        from gonbuild.machine import describe_hardware  # loaded by now

        made = {
            **asdict(training),
            **learned,
            "data": row_counts(rows),
            "seed": self._settings.adapter.seed,
            "hardware": describe_hardware(self._settings.model.device),
        }
        (folder / "training.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")

    def help(self, rows: Sequence[Row], work: Path) -> None:
        """Trains with the first process of the launch, if that one calls for it before it lets the others go."""
        if self._agree(train=False):
            with tempfile.TemporaryDirectory() as folder:
                self._train(rows, Path(folder), work, quiet)

    def let_go(self) -> None:
        """Tells the other processes of the launch, if there are any that wait, that no training is wanted."""
        if processes() > 1 and not self._agreed:
            self._agree(train=False)

    def _agree(self, *, train: bool) -> bool:
        from gonbuild.training import agree

        self._agreed = True
        return agree(self._settings.model.device, self._settings.machine.lock_timeout_s + 1800, train=train)

    def _train(
        self,
        rows: Sequence[Row],
        folder: Path,
        work: Path,
        progress: Progress,
        preferences: Preferences = NO_PREFERENCES,
    ) -> Any:
        progress(LOADING, 0, 1)
        from gonbuild.trainer import Journal
        from gonbuild.training import train_adapter

        if not self._loaded:
            self._check_training(rows, preferences)
        base, machine = self._base, self._settings.machine
        self._drawn_with = None  # training takes an adapter off
        progress(LOADING, 1, 1)
        # Its own choice is the checkpoints' folder, which does not stay.
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(self._root / "build" / "report" / "tensorboard"))
        journal = Journal(work, machine.checkpoint_updates, machine.report_to)
        return train_adapter(base, rows, self._settings.adapter, folder, progress, journal)

    def _prefer(self, preferences: Preferences, folder: Path, progress: Progress) -> dict[str, Any]:
        """Lets the adapter of a folder learn from marks, if it shall; returns what training.json tells of it."""
        if self._settings.adapter.method == "sft":
            return {}
        from gonbuild.preferring import prefer

        return {"preferences": asdict(prefer(self._base, preferences, self._settings.adapter, folder, progress))}

    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        """Draws the requested candidates with the adapter of a folder, None for the bare base, card by card."""
        progress(LOADING, 0, 1)
        from gonbuild.engine import generate
        from gonbuild.model import shape_of

        if not self._loaded:
            shape = shape_of(self._files)
            self._require(_drawing_need(shape, self._settings) if shape else None)
        base = self._drawing(folder)
        progress(LOADING, 1, 1)
        settings = self._settings
        weighed = settings.selection.card_weight > 0
        yield from generate(
            base, requests, settings.sampling, progress, slots=settings.machine.slots, without_card=weighed
        )

    def measure(self, folder: Path | None, rows: Sequence[Row], progress: Progress) -> dict[str, float]:
        """Returns bits per byte and perplexity of the rows' completions, with the adapter of a folder or without."""
        from gonbuild.evaluate import bits_per_byte

        found = bits_per_byte(self._drawing(folder), rows, progress)
        return {"bits_per_byte": found.bits_per_byte, "perplexity": found.perplexity}

    def write_model(self, adapter: Path | None, target: Path, templates: "Templates", chat: str) -> None:
        """Writes the base in full precision, with an adapter merged into it where one is given, into a folder.

        Works in the CPU's memory: merging into 4 bits would round the adapter away.
        """
        from gonbuild.adapter import merge_adapter
        from gonbuild.export import write_model
        from gonbuild.model import load_base, require, shape_of

        full = self._settings.model.model_copy(update={"quantization": "none", "device": "cpu"})
        shape = shape_of(self._files)
        require(full, self._files, need=merging_need(shape, full, self._settings.adapter) if shape else None)
        base = load_base(self._files, full, self._settings.machine.threads)
        write_model(merge_adapter(base, adapter) if adapter else base, target, templates, chat)

    def unload(self) -> None:
        """Gives the memory back that a loaded base takes; what needs one loads it again."""
        self._drawn_with = None
        vars(self).pop("_base", None)

    def _drawing(self, folder: Path | None) -> Any:
        """Returns the base to draw with, the adapter of a folder merged or on it; the last one is kept."""
        if self._drawn_with is None or self._drawn_with[0] != folder:
            self._drawn_with = None  # before the next one: there may not be room for both
            self._drawn_with = folder, self._make_drawing(folder)
        return self._drawn_with[1]

    def _make_drawing(self, folder: Path | None) -> Any:
        from gonbuild.adapter import attach_adapter, detach_adapter, in_full
        from gonbuild.machine import free_bytes
        from gonbuild.model import shape_of

        base, model = self._base, self._settings.model
        shape = shape_of(self._files)
        need = merged_bytes(shape, model, self._settings.sampling) if shape else 0
        roomy = need < free_bytes(model.device)
        if folder is not None:
            return attach_adapter(base, folder, merged=roomy)
        detach_adapter(base)
        return in_full(base) if base.quantized and roomy else base

    @cached_property
    def _base(self) -> Any:
        from gonbuild.model import load_base

        return load_base(self._files, self._settings.model, self._settings.machine.threads)

    @property
    def _files(self) -> BaseFiles:
        return locate_base(self._settings.model, self._root)

    @property
    def _loaded(self) -> bool:
        return "_base" in vars(self)

    def _check_training(self, rows: Sequence[Row], preferences: Preferences) -> None:
        """Looks at the rows' lengths and at the memory before any weight is loaded."""
        from gonbuild.model import folder_of, load_reader, shape_of
        from gonbuild.packing import shared_tokens
        from gonbuild.training import encode_rows

        files = self._files
        folder, shape, read = folder_of(files), shape_of(files), None
        if folder is not None:
            reader, adapter = load_reader(files, folder), self._settings.adapter
            encoded = encode_rows(reader, rows, adapter)
            read = largest_pass(_lengths(encoded), shared_tokens(encoded), _rows_at_once(self._settings))
            if adapter.method != "sft":
                marked = _lengths(encode_rows(reader, marked_rows(preferences), adapter))
                count = adapter.batch_size * (2 if adapter.method == "dpo" else 1)
                read = max(read, padded_pass(marked, count), key=lambda p: p.tokens)
        self._require(_training_need(shape, self._settings, read) if shape else None)

    def _require(self, need: Need | None) -> None:
        """Raises what this machine lacks for a step."""
        from gonbuild.model import require

        require(self._settings.model, self._files, need=need)

    def examine(self) -> tuple[dict[str, Any], dict[str, tuple[list[str], list[str]]]]:
        """Returns what this machine is, and of each profile what it lacks here and what its steps need, GiB."""
        from gonbuild.machine import describe_machine
        from gonbuild.model import missing_for, shape_of

        settings = {name: parse_settings({"profile": name}) for name in PROFILES}
        settings[self._settings.profile] = self._settings
        profiles = {}
        for name, s in settings.items():
            files = locate_base(s.model, self._root)
            shape = shape_of(files)
            needs = [_training_need(shape, s, None), _drawing_need(shape, s)] if shape else []
            most = max(needs, key=lambda need: need.gib, default=None)
            profiles[name] = missing_for(s.model, files, need=most), [str(need) for need in needs]
        return describe_machine(), profiles


def _lengths(encoded: Sequence[tuple[list[int], int]]) -> list[tuple[int, int]]:
    """Returns each row's tokens, and how many of them are learned."""
    return [(len(ids), len(ids) - start) for ids, start in encoded]


def _training_need(shape: Shape, settings: Settings, read: Pass | None) -> Need:
    """Estimates a training whose largest pass is `read`, or one of typical rows where none were counted."""
    return training_need(shape, settings.model, settings.adapter, read or typical_pass(_rows_at_once(settings)))


def _drawing_need(shape: Shape, settings: Settings) -> Need:
    prompt, _, _ = TYPICAL_ROW
    return generation_need(shape, settings.model, settings.adapter, settings.sampling, prompt)


def _rows_at_once(settings: Settings) -> int:
    """Returns how many rows of a batch a device reads."""
    return -(-settings.adapter.batch_size // processes())
