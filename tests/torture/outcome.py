"""Owns what a torture test tells of its run, and sharing its cases out over processes; breaks nothing by itself."""

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context


@dataclass(frozen=True)
class Outcome:
    """How a torture test went."""

    tried: int
    failures: tuple[str, ...] = ()
    """One line for each case that did not hold, with all that is needed to see it again."""
    told: str = ""
    """What was counted or measured on the way, for the table."""


class Note(str):
    """A line of a case that tells what was seen on the way; its other lines tell what did not hold."""

    __slots__ = ()


def named(case: str, lines: Iterable[str]) -> list[str]:
    """Puts a case's name before what did not hold in it."""
    return [line if isinstance(line, Note) else f"{case}: {line}" for line in lines]


def outcome(tried: int, lines: Sequence[str], told: str = "") -> Outcome:
    """Counts the notes of all cases, after what else is told, and keeps the other lines as failures."""
    seen = Counter(line for line in lines if isinstance(line, Note))
    counts = ", ".join(f"{what} {n:,}" for what, n in sorted(seen.items()))
    return Outcome(tried, tuple(line for line in lines if not isinstance(line, Note)), told + counts)


def spread(work: Callable[[int], list[str]], cases: Iterable[int], jobs: int) -> list[str]:
    """Returns the lines of all cases, in their order; `work` takes a case's number and is importable by name.

    With one job everything runs in this process.
    """
    if jobs == 1:
        return [line for case in cases for line in work(case)]
    with processes(jobs) as pool:
        return [line for lines in pool.map(work, cases, chunksize=4) for line in lines]


@contextlib.contextmanager
def processes(jobs: int, **environ: str) -> Iterator[ProcessPoolExecutor]:
    """Lends new processes with more in their environment; what they leave in their temporary folder goes with them."""
    with tempfile.TemporaryDirectory() as name:
        given = {"TMPDIR": name, "PYTHONWARNINGS": "ignore", **environ}  # semaphores of forks that were killed
        earlier = {key: os.environ.get(key) for key in given}
        os.environ.update(given)
        try:
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                yield pool
        finally:
            for key, value in earlier.items():
                os.environ.pop(key)
                os.environ.update({key: value} if value is not None else {})
