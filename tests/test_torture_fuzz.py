"""The fuzzer of tests/torture on few cases, and its rules on commands that break them."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torture import fuzz, fuzz_bench
from torture.fuzz_bench import KINDS, Bench
from torture.fuzz_inputs import MADE, fuzzed

from gonbuild import cli


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.main = cli.main


def test_a_case_of_every_kind_holds() -> None:
    outcome = fuzz.run(len(KINDS), seed=3, jobs=1)
    assert outcome.failures == ()
    assert outcome.tried == len(KINDS)


def test_inputs_follow_from_seed_and_number(bench: Bench) -> None:
    assert MADE.keys() == KINDS.keys()
    cases = [fuzz.case(7, number, bench.valid) for number in range(4 * len(KINDS))]
    assert cases == [fuzz.case(7, number, bench.valid) for number in range(4 * len(KINDS))]
    assert {name for name, _ in cases} == KINDS.keys()
    assert len({data for _, data in cases}) > 3 * len(KINDS)
    assert cases != [fuzz.case(8, number, bench.valid) for number in range(4 * len(KINDS))]


def _crash(root: Path) -> int:
    raise ValueError("this and that")


def _stray(root: Path) -> int:
    (root.parent / "stray").write_text("x")
    return 0


def _change(root: Path) -> int:
    (root / "cards" / "thu.yaml").write_text("deck: x")
    return 0


def _remove(root: Path) -> int:
    shutil.rmtree(root / "templates")
    return 0


def _link(root: Path) -> int:
    (root / "cards" / "link.yaml").symlink_to(root)
    return 0


def _dial(root: Path) -> int:
    import socket

    with pytest.raises(PermissionError), socket.socket() as line:
        line.connect(("127.0.0.1", 9))
    return 0


def _hang(root: Path) -> int:
    while True:
        try:
            sum(range(1000))
        except Exception:  # as commands do that live on
            continue


def _wait(root: Path) -> int:
    time.sleep(60)
    return 0


def _compute(root: Path) -> int:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    return 0


def _in_a_child(root: Path) -> int:
    if not (child := os.fork()):
        _compute(root)
        os._exit(0)
    os.waitpid(child, 0)
    return 0


def _hoard(root: Path) -> int:
    bytearray(300 << 20)
    return 0


def _bomb(root: Path) -> int:
    bytearray(3 << 30)
    return 0


def _traceback(root: Path) -> int:
    print("Traceback (most recent call last):\n  File x")
    return 2


def _chatter(root: Path) -> int:
    import sys

    print("x" * 2_500, file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (_crash, "ValueError: this and that"),
        (lambda root: 4, "4"),
        (lambda root: 2, "exit 2 without a word"),
        (_stray, "PermissionError: open outside of a fuzzed project"),
        (_change, "wrote where it may not: open cards/thu.yaml"),
        (_remove, "wrote where it may not: os.remove templates/"),
        (_link, "wrote where it may not: os.symlink cards/link.yaml"),
        (_dial, "wrote where it may not: socket.connect"),
        (_hang, "took too long: stopped after"),
        (_wait, "took too long: stopped after 2 s"),
        (_compute, "took too long: 0."),
        (_in_a_child, "took too long: 0."),
        (_hoard, "took too much memory: "),
        (_bomb, "MemoryError"),
        (_traceback, "Traceback (most recent call last)"),
        (_chatter, "a message of 2,000 characters or more"),
    ],
)
def test_a_broken_command_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Path], int], reason: str
) -> None:
    monkeypatch.setattr(fuzz_bench, "STOPPED_S", 1.0)
    if broken is _wait:  # by the clock, which on a busy machine says nothing of the others
        monkeypatch.setattr(fuzz_bench, "STUCK_S", 2.0)
    monkeypatch.setattr(bench, "cpu_s", 0.25)
    bench.main = lambda argv, load: broken(bench.root)
    assert reason in bench.check("deck", bench.valid[KINDS["deck"].path])


def test_a_build_that_is_never_done_is_found(bench: Bench) -> None:
    def again(argv: list[str], load: Callable[..., object]) -> int:
        print("packs  write  3 cards changed")
        return 0

    bench.main = again
    assert "after a build that ended with 0: exit 0: packs" in bench.check("deck", bench.valid[KINDS["deck"].path])


def test_what_fails_is_kept_small_and_named(bench: Bench, tmp_path: Path) -> None:
    def picky(argv: list[str], load: Callable[..., object]) -> int:
        if b"stories" in (bench.root / "cards/reviews.yaml").read_bytes():
            raise ValueError("stories")
        print("Nothing to do")
        return 0

    bench.main = picky
    data = fuzz._smaller(
        bench, "reviews", b"- {a: b}\n" * 50 + b"stories" + b"- {c: d}\n" * 50, "ValueError: stories [plan]"
    )
    assert data == b"stories"
    told = fuzz.told(tmp_path, "reviews", "case 5 of seed 1", "ValueError: stories [plan]", data)
    (kept,) = tmp_path.iterdir()
    assert told == f"reviews, case 5 of seed 1: ValueError: stories [plan]; {kept}: 'stories'"


def test_a_process_that_dies_is_a_failure_of_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(kept: Path, words: list[str]) -> tuple[list[dict[str, str]], str]:
        first = int(words[3])
        if first > 3:
            return [{"at": first}, {"codes": ["taken"]}, {"end": True}], ""
        return [{"at": first}, {"codes": ["taken"]}, {"at": first + 2}], "exit -9 Killed"

    monkeypatch.setattr(fuzz, "_worker", dying)
    rows = fuzz._cases(tmp_path, 0, range(1, 8, 2))
    failures = [row["failure"] for row in rows if "failure" in row]
    assert len(failures) == 1
    assert "card.txt" not in failures[0]
    assert "case 3 of seed 0: its process died: exit -9 Killed" in failures[0]
    assert sum("codes" in row for row in rows) == 2


def test_valid_bytes_are_taken(bench: Bench) -> None:
    bench.main = cli.main
    assert bench.check("form", bench.valid[KINDS["form"].path]) == ""
    assert set(bench.codes) <= {0, 1}


def test_inputs_stay_small_enough_to_try(bench: Bench) -> None:
    from random import Random

    for name, kind in KINDS.items():
        assert max(len(fuzzed(name, bench.valid[kind.path], Random(n))) for n in range(50)) < 1 << 19


def test_guided_cases_hold(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    rows = fuzz._guided(tmp_path, 1, "form", 40)
    assert [row["failure"] for row in rows if "failure" in row] == []
    assert 30 <= len(rows) <= 50
