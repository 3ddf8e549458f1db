"""Owns what a worker of a cluster does on its node: drawing requests that came as JSON; knows no Ray and no project.

It draws nothing unless the node's program and base are those of the host that asks. The adapter's files come as bytes.
"""

import contextlib
import json
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gonbuild
from gonbuild.errors import GonbuildError, InputError, MachineError, Problem
from gonbuild.models import Models
from gonbuild.records import Prompt, Request, digest, quiet
from gonbuild.settings import Settings
from gonbuild.store import Store

SHIPPED = ("adapter_model.safetensors", "adapter_config.json", "training.json")
"""What gonbuild writes of an adapter; nothing else travels."""

MakeModels = Callable[[Path, Settings, Store], Models]


@dataclass(frozen=True)
class Job:
    """What every worker of a cluster is given."""

    version: str
    """gonbuild's."""
    settings: str
    """JSON."""
    identity: str
    """The base's, as Models says it."""
    adapter: Callable[[], Mapping[str, bytes]] | None
    """Fetches the adapter's files, name -> bytes; None for the bare base."""
    digests: Mapping[str, str]
    """Of these files."""
    models: MakeModels


class Node:
    """Draws batches of requests; an error is returned, since an engine would wrap or retry what is raised."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Yields a row of JSON for each request: the place it has in `asked`, and its candidates."""
        asked = [json.loads(row) for row in batch["item"]]
        requests = [Request(**{**a["request"], "prompt": Prompt(**a["request"]["prompt"])}) for a in asked]
        try:
            models = self._models
            with self._adapter() as folder:
                drawn = models.generate(folder, requests, quiet)
                for a, (_, candidates) in zip(asked, drawn, strict=True):
                    yield _row({"at": a["at"], "candidates": [vars(c) for c in candidates]})
        except GonbuildError as e:
            yield _error_row(e)
        except Exception as e:
            what = f"node {socket.gethostname()} met {' '.join(f'{type(e).__name__}: {e}'.split())[:300]}"
            yield _error_row(MachineError(Problem("--ray", what, "What was finished is kept.")))

    @cached_property
    def _models(self) -> Models:
        here = socket.gethostname()
        if self.job.version != gonbuild.__version__:
            what = f"node {here} has gonbuild {gonbuild.__version__}, and the host that asks {self.job.version}"
            raise MachineError(Problem("--ray", what, "Install the same on all hosts, with the same constraints.txt."))
        settings = Settings.model_validate_json(self.job.settings)
        with tempfile.TemporaryDirectory(prefix="gonbuild-") as name:  # a project's folder and store are not needed
            models = self.job.models(Path(name), settings, Store(Path(name)))
            try:
                identity = models.identity()
            except InputError as e:
                what = f"node {here} has no base '{settings.model.base}'"
                cure = "A folder must lie at a path that all nodes see; a base of the hub is found by its name."
                raise MachineError([Problem("--ray", what, cure), *e.problems]) from e
        if identity != self.job.identity:
            what = f"node {here} has another base '{settings.model.base}' than the host that asks"
            raise MachineError(Problem("--ray", what, "Put the same files there."))
        return models

    @contextlib.contextmanager
    def _adapter(self) -> Iterator[Path | None]:
        """Lends the adapter's folder for a batch: an actor ends without a word, and would leave its files behind."""
        if self.job.adapter is None:
            yield None
            return
        files = self.job.adapter()
        if {name: digest(data) for name, data in files.items()} != self.job.digests:
            what = f"the adapter did not reach node {socket.gethostname()} as it was sent"
            raise MachineError(Problem("--ray", what, "Run the command again."))
        with tempfile.TemporaryDirectory(prefix="gonbuild-") as name:
            for file in files.keys() & set(SHIPPED):
                (Path(name) / file).write_bytes(files[file])
            yield Path(name)


def _row(value: dict[str, Any]) -> dict[str, list[str]]:
    return {"row": [json.dumps(value)]}


def _error_row(error: GonbuildError) -> dict[str, list[str]]:
    return _row({"error": [type(error).__name__, [vars(problem) for problem in error.problems]]})


def error_of(told: Any) -> GonbuildError:
    """Returns the error that a worker told."""
    kinds = {kind.__name__: kind for kind in (InputError, MachineError)}
    name, problems = told
    return kinds.get(name, GonbuildError)([Problem(**problem) for problem in problems])
