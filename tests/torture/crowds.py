"""Starts eight builds at the same moment, in one checkout or in eight that share a store; each card is drawn once."""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torture import builds
from torture.outcome import Outcome, named

TITLE = "8 builds at the same time, in one checkout or sharing a store"
FULL = 50
CROWD = 8


def run(count: int, seed: int, jobs: int) -> Outcome:
    """Every fifth round is on a tiny real base."""
    lines = builds.preloaded(partial(work, seed), range(count), max(1, jobs // 2))
    return Outcome(CROWD * count, tuple(lines), f"{count} rounds of {CROWD}")


def work(_seed: int, case: int) -> list[str]:
    """Runs one round; returns what did not hold."""
    real, shared, built = case % 5 == 4, case % 2 == 1, case % 4 < 2
    before = builds.before(real=real, built=built)
    with before.copy() as root, tempfile.TemporaryDirectory() as name:
        roots, env = [root] * CROWD, {}
        if shared:
            store = Path(name) / "store"
            if (root / "build/cache").exists():
                shutil.copytree(root / "build/cache", store)
            roots = [Path(shutil.copytree(root, Path(name) / str(n))) for n in range(CROWD)]
            env = {"GONBUILD_CACHE": str(store)}
        starts_at = time.monotonic() + 0.3
        waiting = [builds.start(r, real=real, env=env, starts_at=starts_at) for r in roots]
        name = f"round {case}{', shared' if shared else ''}{', real' if real else ''}"
        return named(name, _case([wait() for wait in waiting], roots, before))


def _case(ended: list[builds.Ended], roots: list[Path], before: builds.Before) -> Iterator[str]:
    for one in ended:
        if one.code != 0 or one.said:
            yield f"a build ended with {one.code}: {one.said}"
    done = Counter(line for one in ended for line in one.log if line.startswith(("train", "drawn")))
    if again := {line: n for line, n in done.items() if n > 1}:
        yield f"done more than once: {again}"
    if not any(line.startswith("drawn") for line in done):
        yield "nobody drew anything"
    for root in {*roots}:
        if builds.shipped(root) != before.wanted:
            yield f"other packs in {root.name}"
        if left := builds.litter(root):
            yield f"left behind: {left}"
