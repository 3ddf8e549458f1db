"""The torture tests at a size that CI can bear, and that each of them can fail; `make torture` runs the full counts."""

import errno
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torture import builds, crashes, crowds, damage, faults, troubles
from torture.outcome import Note, Outcome, named, outcome

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="wants Linux and a C compiler"
)

SIZES: dict[str, tuple[Callable[[int, int, int], Outcome], int]] = {
    "crashes": (crashes.run, 6),
    "faults": (faults.run, 16),
    "damage": (damage.run, 40),
    "crowds": (crowds.run, 3),
    "troubles": (troubles.run, 6),
}


@pytest.mark.parametrize("name", SIZES)
def test_it_holds(name: str) -> None:
    run, count = SIZES[name]
    outcome = run(count, 1, 2)
    assert outcome.failures == ()
    assert outcome.tried >= count


def test_notes_are_counted_and_what_did_not_hold_is_named() -> None:
    lines = [*named("case 1", [Note("exit 0"), "left behind"]), *named("case 2", [Note("exit 0"), Note("exit 3")])]
    assert outcome(2, lines, "ends: ") == Outcome(2, ("case 1: left behind",), "ends: exit 0 2, exit 3 1")


def found_wrong(what: str, _case: int) -> list[str]:
    """Runs a case whose wanted bytes are other ones; in a process with io.c preloaded."""
    before = builds.before(real=False, built=True)
    other = replace(before, earlier={"build/packs/thu.json": b""}, wanted={"build/packs/thu.json": b""})
    with before.copy() as root:
        if what == "crashes":
            return list(crashes._case(random.Random(0), other, root, real=False))
        if what == "after a kill":
            return list(crashes.after_kill(root, other))
        if what == "faults":
            return list(faults._case(other, root, 10**6, errno.EIO, real=False))
        if what == "crowds":
            ended = [builds.run(root), builds.run(root, "stories", "--refresh", "all")]
            return list(crowds._case([replace(one, log=["drawn rung-001"]) for one in ended], [root], other))
        return list(troubles._ended(builds.run(root), other, root))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("crashes", "other bytes than an uninterrupted build"),
        ("after a kill", "build/packs/thu.json is neither the earlier nor the new one"),
        ("faults", "exit 0 with other packs"),
        ("crowds", "done more than once: {'drawn rung-001': 2}"),
        ("troubles", "exit 0 with other packs"),
    ],
)
def test_it_can_fail(what: str, said: str) -> None:
    assert any(said in line for line in builds.preloaded(partial(found_wrong, what), [0], 1))


def test_fault_hits_the_operation_that_was_chosen() -> None:
    (told,) = builds.preloaded(_failed, [0], 1)
    assert told == "3 open /pyproject.toml gonbuild: pyproject.toml: cannot be read: Input/output error. " + (
        "Is the disk sound, and may you read there?"
    )


def _failed(_case: int) -> list[str]:
    with builds.before(real=False, built=True).copy() as root:
        ended = builds.run(root, at=1, error=errno.EIO)
    return [f"{ended.code} {ended.failed} {' '.join(ended.said)}"]


def test_damaged_bytes_differ_always() -> None:
    rng = random.Random(0)
    assert all(damage.damage(rng, whole) != whole for whole in (b"", b"a", b"\0" * 100) for _ in range(200))


def test_damage_that_nobody_mends_is_found(tmp_path: Path) -> None:
    scenario = damage._scenario("nothing to do")
    other = replace(scenario, wanted={})
    root = tmp_path / "game"
    with_lines = damage.damage(random.Random(1), (scenario.root / "build/packs/thu.json").read_bytes())
    shutil.copytree(scenario.root, root)
    (root / "build/packs/thu.json").write_bytes(with_lines)
    lines = list(damage._case(other, root, "build/packs/thu.json", b""))
    assert any("or other packs" in line for line in lines)
