"""Damages cache entries, lock lines and pack files; all of it has to be noticed, mended or reported, not shipped."""

import contextlib
import functools
import io
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fakes import make_project, open_project

from gonbuild import packs
from gonbuild.cli import main
from gonbuild.store import MANIFEST, Store
from torture.builds import edit, litter, shipped
from torture.outcome import Note, Outcome, named, outcome, spread

TITLE = "flipped bits, cuts and other damage to a cache entry, the lock or a pack file"
FULL = 5_000
KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Of the scenarios, until this process ends."""


def run(count: int, seed: int, jobs: int) -> Outcome:
    """Builds in this process with fake models, whose stories depend on every byte of the adapter."""
    lines = spread(partial(work, seed), range(count), jobs)
    return outcome(count, lines)


def work(seed: int, case: int) -> list[str]:
    """Runs one case; returns what did not hold, and notes of what was damaged and what came of it."""
    rng = random.Random(f"{seed} {case}")
    scenario = _scenario(rng.choice([*SCENARIOS]))
    with tempfile.TemporaryDirectory() as name:
        root = Path(shutil.copytree(scenario.root, Path(name) / "game"))
        place = _place(rng, root)
        whole = place.read_bytes()
        damaged = damage(rng, whole)
        place.write_bytes(damaged)
        path = place.relative_to(root).as_posix()
        return named(f"case {case}, {path}", _case(scenario, root, path, whole))


def damage(rng: random.Random, whole: bytes) -> bytes:
    """Returns bytes that differ from the whole ones."""
    at = rng.randrange(len(whole) or 1)
    flipped = whole[:at] + bytes([(whole[at] if whole else 0) ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
    end = at + rng.randint(1, 64)
    zeros, twice = whole[:at] + bytes(end - at) + whole[end:], whole + whole[at:end]
    other = rng.choice((flipped, flipped, whole[:at], whole[:-1], b"", zeros, twice))
    return other if other != whole else flipped


def _place(rng: random.Random, root: Path) -> Path:
    """Draws a kind of file first, then one of them: a cache has many candidates and one adapter."""
    cache = root / "build" / "cache"
    kinds = [sorted(p for p in kind.rglob("*") if p.is_file()) for kind in sorted(cache.iterdir()) if kind.is_dir()]
    kinds += [[p] for p in [root / packs.LOCK, *sorted((root / packs.PACKS).iterdir())] if p.is_file()]
    kinds += [[p] for p in (root / packs.LOCK,) if p.is_file()] * 2
    return rng.choice(rng.choice([kind for kind in kinds if kind]))


def _case(scenario: "Scenario", root: Path, path: str, whole: bytes) -> Iterator[str]:
    in_cache, before = path.startswith("build/cache/"), shipped(root)
    code, said = command(root, "check")
    if code not in (0, 1, 2) or (code == 0 and not in_cache):
        yield f"check ended with {code}: {said}"
    code, said = command(root, "stories")
    if code == 2 and not in_cache:
        yield Note(f"{_what(path)} reported")
        if shipped(root) != before or path not in said:
            yield f"reported wrongly: {said}"
        return
    yield Note(f"{_what(path)} mended")
    # Lines that the lock lost as a whole are cards without stories, which are made anew.
    lost = path == packs.LOCK and whole.startswith(before[path]) and before[path].endswith(b"\n")
    if code != 0 or (shipped(root) != scenario.wanted and not lost):
        yield f"exit {code}, or other packs: {said}"
    if in_cache and (why := _unnoticed(scenario, root, path)):
        yield why
    if left := litter(root):
        yield f"left behind: {left}"
    if (code := command(root, "check")[0]) != 0:
        yield f"check ended with {code} afterwards"


def _unnoticed(scenario: "Scenario", root: Path, path: str) -> str:
    """Says whether the store would hand out what was damaged; a build need not have asked for it."""
    kind, key, name = Path(path).parts[2:5]
    folder = Store(root / "build" / "cache").get(kind, key)
    differs = folder is not None and (folder / name).read_bytes() != scenario.cache.get(path)
    return "the store hands it out" if differs else ""


def _what(path: str) -> str:
    parts = path.split("/")
    if parts[1] == "cache":
        return "manifests" if parts[-1] == MANIFEST else "entries"
    return "packs" if parts[1] == "packs" else "lock"


@dataclass(frozen=True)
class Scenario:
    """A project, and what a build makes of it."""

    root: Path
    wanted: dict[str, bytes]
    cache: dict[str, bytes]
    """Every file of the cache when the build has ended, by path."""


def _nothing(root: Path) -> None:
    """Leaves a project as it was built."""


def _more_stories(root: Path) -> None:
    toml = root / "pyproject.toml"
    toml.write_text(toml.read_text("utf-8") + "[tool.gonbuild.selection]\nstories = 3\n", "utf-8")


def _no_lock(root: Path) -> None:
    (root / packs.LOCK).unlink()


def _no_candidates(root: Path) -> None:
    _no_lock(root)
    shutil.rmtree(root / "build/cache/candidates")


SCENARIOS: dict[str, Callable[[Path], object]] = {
    "nothing to do": _nothing,
    "one card edited": edit,
    "chosen again from the candidates": _more_stories,
    "the lock lost": _no_lock,
    "drawn again with the adapter": _no_candidates,
}


@functools.cache
def _scenario(name: str) -> Scenario:
    folder = tempfile.TemporaryDirectory()
    KEPT.append(folder)
    root = Path(folder.name) / "game"
    make_project(root).build()
    command(root, "check")  # remembers what it found
    SCENARIOS[name](root)
    with tempfile.TemporaryDirectory() as other:
        undisturbed = Path(shutil.copytree(root, Path(other) / "game"))
        assert command(undisturbed, "stories")[0] == 0
        assert command(undisturbed, "check")[0] == 0
        cache = {}
        for place in (root, undisturbed):  # what the build made and what it found
            cache |= {p.relative_to(place).as_posix(): p.read_bytes() for p in _files(place / "build/cache")}
        return Scenario(root, shipped(undisturbed), cache)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def command(root: Path, name: str) -> tuple[int, str]:
    """Runs a command with fake models in this process; returns its exit code and what it said on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([name, "--root", str(root)], lambda folder, _profile: open_project(Path(folder)))
    return code, err.getvalue()
