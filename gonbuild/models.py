"""Owns the road from settings to base model, adapter and engine, and loads each only when it is first needed.

The pipeline talks to this class alone, so a test can put a small fake in its place.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from gonbuild.base import NANO_FOLDER, identity_inputs, locate_base
from gonbuild.ranks import processes
from gonbuild.records import Candidate, Progress, Request, Row, quiet
from gonbuild.settings import PROFILES, Settings, parse_settings
from gonbuild.store import Store

LOADING = "loading the model"


class Models:
    """The real models of a project; `identity` and `held_out` load nothing heavy."""

    def __init__(self, root: Path, settings: Settings, store: Store) -> None:
        self._root, self._settings, self._store = root, settings, store
        self._agreed = False

    def identity(self) -> str:
        """Returns what identifies the base, its weights' hash remembered while the files stay as they are."""
        files = locate_base(self._settings.model, self._root)
        if files.folder is None:
            return files.identity
        return str(self._store.memo("identity", identity_inputs(files.folder), lambda: files.identity))

    def held_out(self) -> frozenset[str]:
        """Returns the names of example cards that no model here is trained on."""
        return frozenset((NANO_FOLDER / "held-out.txt").read_text(encoding="utf-8").split("\n")) - {""}

    def train(self, rows: Sequence[Row], folder: Path, work: Path, progress: Progress) -> None:
        """Trains an adapter on the rows and writes it, with its loss curve, into an empty folder.

        Checkpoints go into `work`, and a training that left some there goes on from the last.
        """
        if processes() > 1:
            self._agree(train=True)
        from gonbuild.dataset import row_counts

        training = self._train(rows, folder, work, progress)
        made = {**asdict(training), "data": row_counts(rows)}
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
        return agree(train=train)

    def _train(self, rows: Sequence[Row], folder: Path, work: Path, progress: Progress) -> Any:
        progress(LOADING, 0, 1)
        from gonbuild.training import Journal, train_adapter

        base, machine = self._base, self._settings.machine
        progress(LOADING, 1, 1)
        journal = Journal(work, machine.checkpoint_updates, machine.report_to)
        return train_adapter(base, rows, self._settings.adapter, folder, progress, journal)

    def generate(
        self, folder: Path | None, requests: Sequence[Request], progress: Progress
    ) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
        """Draws the requested candidates with the adapter of a folder, None for the bare base, card by card."""
        progress(LOADING, 0, 1)
        from gonbuild.engine import generate

        base = self._adapted(folder)
        progress(LOADING, 1, 1)
        yield from generate(base, requests, self._settings.sampling, progress)

    def measure(self, folder: Path | None, rows: Sequence[Row], progress: Progress) -> dict[str, float]:
        """Returns bits per byte and perplexity of the rows' completions, with the adapter of a folder or without."""
        from gonbuild.evaluate import bits_per_byte

        found = bits_per_byte(self._adapted(folder), rows, progress)
        return {"bits_per_byte": found.bits_per_byte, "perplexity": found.perplexity}

    def _adapted(self, folder: Path | None) -> Any:
        from gonbuild.adapter import attach_adapter, detach_adapter

        if folder is None:
            detach_adapter(self._base)
            return self._base
        return attach_adapter(self._base, folder)

    @cached_property
    def _base(self) -> Any:
        from gonbuild.model import load_base

        files = locate_base(self._settings.model, self._root)
        return load_base(files, self._settings.model, self._settings.machine.threads)

    def examine(self) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """Returns what this machine is, and what each profile lacks on it."""
        from gonbuild.model import describe_machine, missing_for

        settings = {name: parse_settings({"profile": name}) for name in PROFILES}
        settings[self._settings.profile] = self._settings
        missing = {name: missing_for(s.model, locate_base(s.model, self._root)) for name, s in settings.items()}
        return describe_machine(), missing
