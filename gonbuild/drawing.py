"""Owns how candidates that the store lacks come into it: by this process, by several of this host, or by a cluster.

Whoever draws keeps each card's candidates in the store as soon as they are whole, so that an interrupted run loses
none of them, and whoever wants them reads them there.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.models import Models
from gonbuild.records import Candidate, Progress, Request, digest
from gonbuild.settings import Settings
from gonbuild.store import Store

KIND = "candidates"


@dataclass(frozen=True)
class Asked:
    """A request with the inputs of the key under which its candidates are kept."""

    request: Request
    inputs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Key of the candidates' entry."""
        return digest(self.inputs)


class Place(Protocol):
    """What drawing needs of a project; a Workspace is one."""

    root: Path
    settings: Settings
    store: Store
    models: Models


class Draw(Protocol):
    """Draws what is asked into the store, with the adapter of a folder or, for None, the bare base."""

    def __call__(self, place: Place, folder: Path | None, asked: Sequence[Asked], progress: Progress, /) -> None: ...


def draw_here(place: Place, folder: Path | None, asked: Sequence[Asked], progress: Progress) -> None:
    """Draws in this process."""
    drawn = place.models.generate(folder, [a.request for a in asked], progress)
    for a, (_, candidates) in zip(asked, drawn, strict=True):
        keep(place.store, a, candidates)


def keep(store: Store, asked: Asked, candidates: Iterable[Candidate]) -> None:
    """Puts a request's candidates into the store; a second time it changes nothing."""
    store.put_json(KIND, asked.key, asked.inputs, [vars(c) for c in candidates])


def kept_candidates(store: Store, asked: Asked) -> tuple[Candidate, ...] | None:
    """Returns a request's candidates from the store, None where it has none."""
    value = store.read_json(KIND, asked.key)
    return None if value is None else tuple(Candidate(**row) for row in value)


def drawing(
    settings: Settings, workers: int = 1, ray: str = "", found: Callable[[str], object] = importlib.util.find_spec
) -> Draw:
    """Returns what draws: this process, `workers` processes of this host, or the Ray cluster of an address.

    Loads nothing heavy, and connects to nothing yet; `found` tells whether a package is installed.

    Raises:
        InputError: no such number of workers, or workers and a cluster together.
        MachineError: Ray is not installed.
    """
    if ray and workers != 1:
        what = "--workers is for one host, and --ray for a cluster, whose every GPU works anyway"
        raise InputError(Problem("", what, "Wanted one of the two."))
    if workers < 1:
        raise InputError(Problem("--workers", f"{workers} processes were asked for", "Wanted 1 or more."))
    if ray:
        if found("ray") is None:
            cure = "Install it: pip install -c constraints.txt -e '.[ray]'."
            raise MachineError(Problem("--ray", "Ray is not installed", cure))
        return _on_cluster(ray)
    if workers == 1:
        return draw_here
    from gonbuild.crew import Crew, check_gpus

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # as it is before `machine` leaves one of them
    return Crew(workers, check_gpus(workers, visible) if settings.model.device == "cuda" else ())


def _on_cluster(address: str) -> Draw:
    def draw(place: Place, folder: Path | None, asked: Sequence[Asked], progress: Progress, /) -> None:
        from gonbuild.cluster import draw_on_cluster  # a build with nothing to draw loads no Ray

        draw_on_cluster(address, place, folder, asked, progress)

    return draw
