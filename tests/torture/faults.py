"""Lets every open, write, fsync, rename, unlink and mkdir of a build fail once, with each of four errors."""

import errno
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torture import builds
from torture.builds import Before
from torture.outcome import Note, Outcome, named, outcome

TITLE = "a fault at each operation of a build on the project's files, one by one"
FULL = 100_000
"""More than there are: all."""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EACCES)


def run(count: int, seed: int, jobs: int) -> Outcome:
    """With fake models each operation meets each error, on a tiny real base each one of them in turn."""
    (counted,) = builds.preloaded(_count, [0], 1)
    fake, real = map(int, counted.split())
    cheap = [(at, error, False) for at in range(1, fake + 1) for error in ERRORS]
    dear = [(at, ERRORS[at % len(ERRORS)], True) for at in range(1, real + 1)]
    rng, few = random.Random(seed), -(-count // 8)
    chosen = [*cheap, *dear]
    if count < len(chosen):
        chosen = [*rng.sample(cheap, min(count - few, len(cheap))), *rng.sample(dear, min(few, len(dear)))]
    lines = builds.preloaded(partial(work, chosen), range(len(chosen)), jobs)
    return outcome(len(chosen), lines)


def _count(_case: int) -> list[str]:
    return [" ".join(str(builds.before(real=real, built=True).seen) for real in (False, True))]


def work(cases: list[tuple[int, int, bool]], case: int) -> list[str]:
    """Runs one case; returns what did not hold, and a note of how it ended."""
    at, error, real = cases[case]
    before = builds.before(real=real, built=True)
    name = f"operation {at}{' of the real base' if real else ''}, {errno.errorcode[error]}"
    with before.copy() as root:
        return named(name, _case(before, root, at, error, real=real))


def _case(before: Before, root: Path, at: int, error: int, *, real: bool) -> Iterator[str]:
    ended = builds.run(root, real=real, at=at, error=error)
    found = builds.shipped(root)
    yield Note(f"exit {ended.code}")
    if ended.code == 3:
        if len(ended.said) != 1 or "internal error" in ended.said[0]:
            yield f"{ended.failed}: said {ended.said}"
        if found != before.earlier:
            yield f"{ended.failed}: earlier packs were touched"
    elif ended.code:
        yield f"{ended.failed}: exit {ended.code}, {ended.said}"
    elif found != before.wanted:
        yield f"{ended.failed}: exit 0 with other packs, {ended.said}"
    last = builds.run(root, real=real)
    if last.code != 0 or builds.shipped(root) != before.wanted:
        yield f"{ended.failed}: the next build ended with {last.code}, {last.said}"
    if left := builds.litter(root):
        yield f"{ended.failed}: left behind {left}"
