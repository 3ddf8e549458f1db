"""Owns drawing by several processes of this host, which share the cards and meet in the store; prints nothing.

A worker draws as one process does and keeps what it drew itself, so nothing but its progress passes between it and its
parent. Whatever becomes of a worker, the parent draws what is missing in the end.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from gonbuild.drawing import KIND, Asked, Place, draw_here, keep
from gonbuild.errors import GonbuildError, InputError, Problem
from gonbuild.models import LOADING, Models
from gonbuild.ranks import usable_cores
from gonbuild.records import Progress, digest
from gonbuild.settings import Settings
from gonbuild.store import Store

MOST_THREADS = 4
"""Of a worker, as of a single process, unless `machine.threads` says otherwise."""
PATIENCE_S = 5.0
"""Seconds that a worker has to end after it was told to."""

MakeModels = Callable[[Path, Settings, Store], Models]


@dataclass(frozen=True)
class Shift:
    """What one worker is given to do; all of it travels to a fresh process."""

    root: Path
    settings: Settings
    store: Path
    folder: Path | None
    asked: tuple[Asked, ...]
    gpu: str
    """The only one it sees, by CUDA's name; empty leaves it as it is."""
    workers: int
    """How many share the cores."""
    models: MakeModels


@dataclass
class Worker:
    """One process, what it tells, and whether it said that all is done."""

    process: Any
    told: Connection
    finished: bool = False


@dataclass(frozen=True)
class Crew:
    """Draws with `workers` processes, the nth on the nth of `gpus` where there are any; `models` is what each loads."""

    workers: int
    gpus: tuple[str, ...] = ()
    models: MakeModels = Models

    def __call__(self, place: Place, folder: Path | None, asked: Sequence[Asked], progress: Progress, /) -> None:
        """Draws what is asked into the store.

        Raises:
            GonbuildError: as a worker did; the others are stopped.
        """
        shards = deal(asked, self.workers)
        if len(shards) < 2:
            draw_here(place, folder, asked, progress)
            return
        place.models.unload()  # a base that trained may stand where a worker's is to be
        progress(LOADING, 0, 1)
        told = _Told(progress, len(asked))
        crew: list[Worker] = []
        try:
            for number, shard in enumerate(shards):
                gpu = self.gpus[number] if self.gpus else ""
                shift = Shift(
                    place.root, place.settings, place.store.root, folder, shard, gpu, len(shards), self.models
                )
                crew.append(_start(shift))
            _attend(crew, told, place.store.warn)
        finally:
            _dismiss(crew)
        missing = [a for a in asked if not place.store.has(KIND, a.key)]
        if missing:
            draw_here(place, folder, missing, told.for_rest(len(missing)))


def deal(asked: Sequence[Asked], workers: int) -> list[tuple[Asked, ...]]:
    """Deals the cards out in the order of their digests, so that shares are even and none is empty."""
    shuffled = sorted(asked, key=lambda a: (digest(a.request.card), a.request.first, a.request.last))
    return [tuple(shuffled[n::workers]) for n in range(min(workers, len(asked)))]


def check_gpus(workers: int, visible: str | None, found: Callable[[], list[str]] | None = None) -> tuple[str, ...]:
    """Returns CUDA's names of the GPUs that are to be seen, of which each worker takes one.

    `visible` is CUDA_VISIBLE_DEVICES, None where it is not set.

    Raises:
        InputError: there are more workers than GPUs.
    """
    names = (found or _gpus)() if visible is None else [name.strip() for name in visible.split(",")]
    names = list(takewhile(lambda name: name not in ("", "-1"), names))
    if workers > len(names):
        what = f"{workers} processes want a GPU each, and {len(names) or 'none'} can be seen here"
        wanted = f'Wanted {max(len(names), 1)} at most; with model.device = "cpu" they need none.'
        raise InputError(Problem("--workers", what, wanted))
    return tuple(names)


def _gpus() -> list[str]:
    """Asks the driver: torch takes seconds to load, and would open them in this process."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(n) for n, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


class _Told:
    """Adds up what the workers tell into one progress."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, -1

    def drawing(self, cards: int = 0) -> None:
        if self._done < 0:
            self._done = 0
            self._progress(LOADING, 1, 1)
            self._progress("generating", 0, self._total)
        if cards:
            self._done += cards
            self._progress("generating", self._done, self._total)

    def for_rest(self, missing: int) -> Progress:
        def progress(what: str, done: int, total: int, loss: float | None = None, /) -> None:
            if what == "generating":
                done, total = self._total - missing + done, self._total
            self._progress(what, done, total, loss)

        return progress


def _start(shift: Shift) -> Worker:
    ours, theirs = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_work, args=(shift, theirs), daemon=True)
    # Ctrl-C reaches every process of a terminal. A worker inherits that it waits for its parent's word instead.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return Worker(process, ours)


def _attend(crew: Sequence[Worker], told: _Told, warn: Callable[[str], object]) -> None:
    """Listens until every worker has ended; raises the error of the first that met one."""
    open_ = {worker.told: (number, worker) for number, worker in enumerate(crew, 1)}
    while open_:
        for ready in wait(list(open_)):
            number, worker = open_[ready]  # type: ignore[index]  # what is ready is one of these
            try:
                what, value = worker.told.recv()
            except (EOFError, OSError):
                del open_[worker.told]
                if not worker.finished:
                    why = _cause_of_death(worker)
                    warn(f"process {number} of {len(crew)} {why}; what it left is drawn by this one")
                continue
            if what == "failed":
                raise value
            if what == "warn":
                warn(value)
            elif what == "broke":
                worker.finished = True
                warn(f"process {number} of {len(crew)} stopped: {value}; what it left is drawn by this one")
            elif what == "finished":
                worker.finished = True
            else:
                told.drawing(value)


def _cause_of_death(worker: Worker) -> str:
    worker.process.join(PATIENCE_S)
    code = worker.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"ended too early with code {code}"


def _dismiss(crew: Sequence[Worker]) -> None:
    for worker in crew:
        if not worker.finished:
            worker.process.terminate()
    for worker in crew:
        worker.process.join(PATIENCE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
        worker.told.close()


# --- in the worker ---------------------------------------------------------------------------------


def _work(shift: Shift, tell: Connection) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception, so that no half-written entry stays behind
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    if shift.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = shift.gpu
    draw_shift(shift, tell)


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def draw_shift(shift: Shift, tell: Connection) -> None:
    """Draws a shift into the store in this process, and tells what becomes of it; raises nothing."""
    try:
        _draw(shift, tell)
    except GonbuildError as e:
        tell.send(("failed", e))
    except Exception as e:  # the parent draws the rest, and meets the same where it is no accident
        tell.send(("broke", " ".join(f"{type(e).__name__}: {e}".split())[:200]))
    else:
        tell.send(("finished", None))


def _draw(shift: Shift, tell: Connection) -> None:
    threads = max(1, min(shift.settings.machine.threads or MOST_THREADS, usable_cores() // shift.workers))
    machine = shift.settings.machine.model_copy(update={"threads": threads})
    settings = shift.settings.model_copy(update={"machine": machine})
    store = Store(shift.store, lambda line: tell.send(("warn", line)))

    def progress(what: str, done: int, /, *_: object) -> None:
        if what != LOADING and not done:
            tell.send(("drawing", 0))

    drawn = shift.models(shift.root, settings, store).generate(shift.folder, [a.request for a in shift.asked], progress)
    for a, (_, candidates) in zip(shift.asked, drawn, strict=True):
        keep(store, a, candidates)
        tell.send(("drawing", 1))
