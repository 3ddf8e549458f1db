"""Kills builds at random moments, by the clock or at a random operation on a file; the next build has to heal it."""

import fcntl
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gonbuild.store import KINDS, Store
from torture import builds
from torture.builds import UPDATES, Before, Ended
from torture.outcome import Note, Outcome, named, outcome

TITLE = "SIGKILL at a random moment of a build, once to three times, then a build"
FULL = 500
UNFINISHED = ("quarantine", "training")


def run(count: int, seed: int, jobs: int) -> Outcome:
    """Every other case is on a tiny real base, the others on fake models; half begin with packs that are there."""
    lines = builds.preloaded(partial(work, seed), range(count), jobs)
    return outcome(count, lines, "killed: ")


def work(seed: int, case: int) -> list[str]:
    """Runs one case; returns what did not hold, and a note for each kill."""
    rng = random.Random(f"{seed} {case}")
    before = builds.before(real=case % 2 == 1, built=rng.random() < 0.5)
    with before.copy() as root:
        return named(f"case {case}", _case(rng, before, root, real=case % 2 == 1))


def _case(rng: random.Random, before: Before, root: Path, *, real: bool) -> Iterator[str]:
    runs: list[Ended] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.5:
            ended = builds.run(root, real=real, kill_after_s=rng.uniform(0, before.seconds))
        else:
            ended = builds.run(root, real=real, at=rng.randint(1, before.seen))
        runs.append(ended)
        if ended.code not in (0, -9):
            yield f"a build ended with {ended.code}: {ended.said}"
        if ended.code == 0:
            yield Note("too late")
            break
        yield Note(_phase(ended))
        yield from after_kill(root, before)
    last = builds.run(root, real=real)
    if last.code != 0 or last.said:
        yield f"the next build ended with {last.code}: {last.said}"
    if builds.shipped(root) != before.wanted:
        yield f"other bytes than an uninterrupted build: {_other(builds.shipped(root), before.wanted)}"
    if left := builds.litter(root):
        yield f"left behind: {left}"
    yield from _lost([*runs, last], root)
    if (checked := builds.run(root, "check", real=real)).code != 0:
        yield f"check ended with {checked.code}: {checked.said}"


def after_kill(root: Path, before: Before) -> Iterator[str]:
    """Names what others could see that is neither as it was nor as it shall be."""
    for name, data in builds.shipped(root).items():
        if data not in (before.earlier.get(name), before.wanted.get(name)):
            yield f"{name} is neither the earlier nor the new one"
    warnings: list[str] = []
    store = Store(root / "build" / "cache", warnings.append)
    for kind in set(KINDS) - {*UNFINISHED}:
        for entry in (store.root / kind).glob("[!.]*"):
            store.get(kind, entry.name)
    yield from warnings
    lock = store.root / "build.lock"
    if lock.exists():
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield "the lock is held by nobody"


def _lost(runs: list[Ended], root: Path) -> Iterator[str]:
    """Says where more was done again than the card or the updates that a kill interrupted."""
    drawn = sum(line.startswith("drawn ") for ended in runs for line in ended.log)
    kept = len([*(root / "build/cache/candidates").glob("[!.]*")])
    new = len({line for ended in runs for line in ended.log if line.startswith("drawn ")})
    if drawn > new + len(runs) - 1:
        yield f"{drawn} cards drawn, {kept} kept"
    reached = 0
    for ended in runs:
        updates = [int(line.split()[1]) for line in ended.log if line.startswith("update ")]
        if updates and updates[0] < reached - UPDATES:
            yield f"training began at update {updates[0]} though it had come to {reached}"
        reached = max([reached, *updates])
        if "trained" in ended.log:
            reached = 0


def _phase(ended: Ended) -> str:
    last = (ended.log or [""])[-1].split(" ")[0]
    return {"": "before or at the end", "train": "training", "update": "training"}.get(last, "generating or writing")


def _other(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
