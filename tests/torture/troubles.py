"""Builds on disks that are small or read-only, in folders that vanish, with clocks that are wrong: exit 3, or right."""

import contextlib
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torture import builds
from torture.builds import Before, Ended
from torture.outcome import Note, Outcome, named, outcome

TITLE = "small and read-only disks, vanishing folders, wrong clocks"
FULL = 96
YEAR = 365 * 24 * 3600


def run(count: int, seed: int, jobs: int) -> Outcome:
    """Goes round the troubles with fake models and a tiny real base in turn, with packs that are there and without."""
    lines = builds.preloaded(partial(work, seed), range(count), jobs)
    return outcome(count, lines)


def work(seed: int, case: int) -> list[str]:
    """Runs one case; returns what did not hold, and a note of how it ended."""
    rng = random.Random(f"{seed} {case}")
    name, real, built = [*TROUBLES][case % len(TROUBLES)], case // len(TROUBLES) % 2 == 1, rng.random() < 0.5
    before = builds.before(real=real, built=built)
    with before.copy() as root:
        try:
            found = list(TROUBLES[name](rng, before, root, real))
        except subprocess.CalledProcessError:
            found = [Note("not tried: no right to mount")]
    what = f"case {case}, {name}{', real' if real else ''}{', built' if built else ''}"
    return named(what, (Note(f"{name} {line}") if isinstance(line, Note) else line for line in found))


def _ended(ended: Ended, before: Before, root: Path) -> Iterator[str]:
    """Yields what is wrong with an end that may be exit 3, one line and no change, or the right packs."""
    yield Note(f"exit {ended.code}")
    found = builds.shipped(root)
    if ended.code == 3:
        if len(ended.said) != 1 or "internal error" in ended.said[0]:
            yield f"said {ended.said}"
        if found != before.earlier:
            yield f"earlier packs were touched: {ended.said}"
    elif ended.code or found != before.wanted:
        yield f"exit {ended.code} with {'right' if found == before.wanted else 'other'} packs: {ended.said}"


def _next(before: Before, root: Path, *, real: bool) -> Iterator[str]:
    last = builds.run(root, real=real)
    if last.code != 0 or builds.shipped(root) != before.wanted:
        yield f"the next build ended with {last.code}: {last.said}"


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mounts something on a folder.

    Raises:
        CalledProcessError: there is no right to.
    """
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(rng: random.Random, before: Before, root: Path, real: bool) -> Iterator[str]:
    """Gives build/ a disk of its own, from a tenth of a megabyte to one."""
    size = rng.choice((96, 128, 192, 256, 384, 512, 1024))
    with tempfile.TemporaryDirectory() as name:
        if (root / "build").exists():
            shutil.move(root / "build", Path(name) / "build")
        (root / "build").mkdir()
        with mounted(root / "build", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs"):
            try:
                if (Path(name) / "build").exists():
                    shutil.copytree(Path(name) / "build", root / "build", dirs_exist_ok=True)
            except shutil.Error:  # not even the earlier packs fit
                yield Note("too small to begin")
                return
            yield from _ended(builds.run(root, real=real), before, root)


def read_only(rng: random.Random, before: Before, root: Path, real: bool) -> Iterator[str]:
    """Makes build/, or one folder of it, read-only."""
    folder = root / rng.choice(("build", "build/packs", "build/cache", "build/report"))
    folder.mkdir(parents=True, exist_ok=True)
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield from _ended(builds.run(root, real=real), before, root)
    yield from _next(before, root, real=real)


def no_directory(_rng: random.Random, before: Before, root: Path, real: bool) -> Iterator[str]:
    """Runs where the working directory is gone, for the project in it."""
    gone = root.parent / "gone"
    gone.mkdir()
    ended = builds.run(".", real=real, cwd=gone)
    yield from _ended(ended, before, root)
    if ended.code != 3:
        yield f"exit {ended.code} without a working directory"
    yield from _next(before, root, real=real)


def vanishing(rng: random.Random, before: Before, root: Path, real: bool) -> Iterator[str]:
    """Takes the cache or the whole build folder away while a build runs."""
    wait = builds.start(root, real=real)

    def vanish() -> None:
        time.sleep(rng.uniform(0.05, before.seconds))
        shutil.rmtree(root / rng.choice(("build/cache", "build/cache/candidates", "build/report")), ignore_errors=True)

    thread = threading.Thread(target=vanish)
    thread.start()
    ended = wait()
    thread.join()
    yield Note(f"exit {ended.code}")
    if ended.code not in (0, 3) or any("internal error" in line for line in ended.said):
        yield f"exit {ended.code}: {ended.said}"
    yield from _next(before, root, real=real)


def clock(rng: random.Random, before: Before, root: Path, real: bool) -> Iterator[str]:
    """Sets the clock back, or forth, before a build, and once more before the next."""
    away = rng.choice((-50 * YEAR, -YEAR, -3600, YEAR))
    yield from _ended(builds.run(root, real=real, env={"TORTURE_CLOCK": str(away)}), before, root)
    for command in ("check", "stories"):
        ended = builds.run(root, command, real=real, env={"TORTURE_CLOCK": str(-away)})
        if ended.code or ended.log:
            yield f"{command} later ended with {ended.code}: {ended.said}, {ended.log}"


TROUBLES: dict[str, Callable[[random.Random, Before, Path, bool], Iterator[str]]] = {
    "full disk": full_disk,
    "read-only folder": read_only,
    "no working directory": no_directory,
    "folder taken away": vanishing,
    "clock": clock,
}
