"""Fuzzes every file that gonbuild reads; each case runs real commands on a small project. Owns the runs, not the rules.

A case's bytes follow from the seed and its number. Where atheris is installed, a fifth of a long run is guided by
coverage. One input again: `python -m torture.fuzz KIND FILE`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from random import Random

TESTS = Path(__file__).parent.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))  # a worker is run as a script of this folder

from torture.fuzz_bench import KINDS, Bench  # noqa: E402
from torture.fuzz_inputs import fuzzed  # noqa: E402
from torture.outcome import Outcome  # noqa: E402

TITLE = "fuzzed decks, templates, settings, decisions, locks, JSON Lines and forms"
FULL = 50_000
GUIDED = 1_000
"""Cases from which on some are guided: each kind's process takes seconds to start."""
TRIES = 60
"""Runs that making a failing input smaller may cost."""


def run(count: int, seed: int, jobs: int) -> Outcome:
    """Runs that many cases in processes of their own, which a case may take down without ending the run."""
    kept = Path(tempfile.mkdtemp(prefix="gonbuild-fuzz-"))
    runs = count // 5 // len(KINDS) if count >= GUIDED and find_spec("atheris") else 0
    cases = count - runs * len(KINDS)
    works: list[Callable[[], list[dict[str, str]]]] = [
        lambda n=n: _cases(kept, seed, range(n, cases, jobs)) for n in range(min(jobs, cases))
    ]
    works += [lambda name=name: _guided(kept, seed, name, runs) for name in KINDS if runs]
    with ThreadPoolExecutor(jobs) as pool:
        rows = [row for rows in pool.map(lambda work: work(), works) for row in rows]
    failures = [row["failure"] for row in rows if "failure" in row]
    ends = Counter(code for row in rows for code in row.get("codes", ()))
    tried = sum("codes" in row or "failure" in row for row in rows)
    if not failures:
        shutil.rmtree(kept)
    share = ends["taken"] / max(1, ends.total())
    return Outcome(
        tried, tuple(failures), f"{share:.0%} of the inputs taken, the others refused; {runs * len(KINDS):,} guided"
    )


def _cases(kept: Path, seed: int, numbers: range) -> list[dict[str, str]]:
    """Runs cases in a process of their own, and goes on in another one after a case that took it down."""
    rows: list[dict[str, str]] = []
    while numbers:
        words = ["cases", str(kept), str(seed), str(numbers.start), str(numbers.stop), str(numbers.step)]
        found, said = _worker(kept, words)
        rows += [row for row in found if "at" not in row]
        last = next((int(row["at"]) for row in reversed(found) if "at" in row), None)
        if found and "end" in found[-1]:
            break
        if last is None:
            raise RuntimeError(f"a process of the fuzzer did not start: {said}")
        name, data = case(seed, last)
        rows.append(
            {"failure": told(kept, name, f"case {last} of seed {seed}", f"its process died: {said[-300:]}", data)}
        )
        numbers = range(last + numbers.step, numbers.stop, numbers.step)
    return rows


def _guided(kept: Path, seed: int, name: str, runs: int) -> list[dict[str, str]]:
    """Runs inputs of one kind that are guided by coverage; what took the process down is the last one."""
    with tempfile.TemporaryDirectory(prefix="gonbuild-fuzz-project-", dir=fast_folder()) as folder:
        rows, said = _worker(kept, [str(kept), folder, str(seed), name, str(runs)], "fuzz_guided.py")
    if not said.startswith("exit 0 "):
        last = kept / f"{name}.last"
        data = last.read_bytes() if last.is_file() else b""
        rows.append({"failure": told(kept, name, f"guided by seed {seed}", f"its process died: {said[-300:]}", data)})
    return rows


def _worker(kept: Path, words: Sequence[str], script: str = "fuzz.py") -> tuple[list[dict[str, str]], str]:
    """Runs a file of this folder with words; returns the rows that it wrote, and the end of what it said."""
    path = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "GONBUILD_REVIEWER": "Na"}
    handle, name = tempfile.mkstemp(dir=kept, suffix=".rows")
    os.close(handle)
    ended = subprocess.run(
        [sys.executable, str(TESTS / "torture" / script), *words, name],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    rows = [json.loads(line) for line in Path(name).read_text().splitlines() if line.endswith("}")]
    Path(name).unlink()
    return rows, f"exit {ended.returncode} {ended.stderr[-2000:]}"


# --- in a process of their own -------------------------------------------------------------------


def case(seed: int, number: int, valid: dict[str, bytes] | None = None) -> tuple[str, bytes]:
    """Returns the kind and the bytes of a case; without `valid`, of a project that is made for it."""
    name = [*KINDS][number % len(KINDS)]
    if valid is None:
        with tempfile.TemporaryDirectory() as folder:
            valid = Bench(Path(folder)).valid
    return name, fuzzed(name, valid[KINDS[name].path], Random(f"{seed}:{number}"))


def try_case(bench: Bench, kept: Path, seed: int, number: int) -> str:
    """Runs a case; returns what does not hold in a line, empty where all does."""
    name, data = case(seed, number, bench.valid)
    reason = bench.check(name, data)
    return (
        told(kept, name, f"case {number} of seed {seed}", reason, _smaller(bench, name, data, reason)) if reason else ""
    )


def _smaller(bench: Bench, name: str, data: bytes, reason: str) -> bytes:
    """Returns a part of a failing input that fails alike: spans are left out while that holds, and tries are left."""
    tries, size = 0 if "too long" in reason else TRIES, len(data) // 2
    while size and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            less = data[:at] + data[at + size :]
            tries -= 1
            if bench.check(name, less)[:24] == reason[:24]:
                data = less
            else:
                at += size
        size //= 2
    return data


def told(kept: Path, name: str, which: str, reason: str, data: bytes) -> str:
    """Keeps a failing input and puts the failure into a line."""
    handle, path = tempfile.mkstemp(prefix=f"{name}-", dir=kept)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    text = repr(data.decode("utf-8", "backslashreplace"))
    short = text if len(text) <= 160 else f"{text[:80]} ... {text[-60:]}"
    return f"{name}, {which}: {reason}; {path}: {short}"


def _run_cases(kept: Path, seed: int, numbers: range, write: Callable[..., None]) -> None:
    with tempfile.TemporaryDirectory(prefix="gonbuild-fuzz-project-", dir=fast_folder()) as folder:
        bench = Bench(Path(folder))
        for number in numbers:
            write(at=number)
            if failure := try_case(bench, kept, seed, number):
                write(failure=failure)
            else:
                write(codes=[end(bench)])
        write(end=True)


def end(bench: Bench) -> str:
    """Says whether the last case was taken or refused."""
    return "refused" if 2 in bench.codes else "taken"


def fast_folder() -> str | None:
    """Returns a folder in memory: a build syncs what it writes."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main(words: Sequence[str]) -> int:
    """Does a worker's work, or tries one file: KIND FILE."""
    if words[0] != "cases":
        with tempfile.TemporaryDirectory(prefix="gonbuild-fuzz-project-", dir=fast_folder()) as folder:
            reason = Bench(Path(folder)).check(words[0], Path(words[1]).read_bytes())
        print(reason or "all holds")
        return 1 if reason else 0
    with Path(words[-1]).open("a", encoding="utf-8", buffering=1) as rows:

        def write(**row: object) -> None:
            rows.write(json.dumps(row) + "\n")

        _run_cases(Path(words[1]), int(words[2]), range(*map(int, words[3:6])), write)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
