"""Owns builds in forked processes that can be killed or made to fail, on fake models or on a tiny real base.

Its worker processes load the libraries once; each build is a fork of one, so that a build costs what it does and no
more. `io.c` is preloaded there.
"""

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import test_line
from fakes import DECK, FakeModels, make_project
from tiny import write_tiny_base

from gonbuild import packs
from gonbuild.cli import main
from gonbuild.models import Models
from gonbuild.pipeline import Project, load_project
from gonbuild.rendering import RENDERER
from torture.outcome import processes

SOURCE = Path(__file__).with_name("io.c")
UPDATES = 40
"""Updates between checkpoints."""
REAL = f"{test_line.SETTINGS}checkpoint_updates = {UPDATES}\n"


class _Logged:
    """Tells a file, which outlives the process, what models did."""

    def __init__(self, models: Any, log: Path) -> None:
        self._models, self._log = models, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)

    def _tell(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def train(self, rows: Any, folder: Path, work: Path, progress: Any, preferences: Any) -> None:
        def told(what: str, done: int, total: int, loss: float | None = None, /) -> None:
            if what == "training":
                self._tell(f"update {done}")
            progress(what, done, total, loss)

        self._tell("train")
        self._models.train(rows, folder, work, told, preferences)
        self._tell("trained")

    def generate(self, folder: Path | None, requests: Sequence[Any], progress: Any) -> Iterator[Any]:
        self._tell("generate " + " ".join(r.card for r in requests))
        for request, candidates in self._models.generate(folder, requests, progress):
            self._tell(f"drawn {request.card}")
            yield request, candidates


def open_logged(root: Path, log: Path, *, real: bool) -> Project:
    """Opens a project whose models tell a file what they did."""
    project = load_project(root)
    models = Models(root, project.settings, project.store) if real else FakeModels()
    project.models = _Logged(models, log)  # type: ignore[assignment]
    return project


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Negative: the signal that ended it."""
    said: list[str]
    """Lines on stderr, progress left out."""
    log: list[str] = field(default_factory=list)
    """What the models did."""
    seconds: float = 0.0
    seen: int = 0
    """Operations on the project's files."""
    failed: str = ""
    """The operation that was made to fail."""


@functools.cache
def shim() -> Any:
    """Returns the preloaded library of this process."""
    library = ctypes.CDLL(None)
    library.torture_last.restype = ctypes.c_char_p
    return library


@dataclass(frozen=True)
class How:
    """How a command is run in a fork."""

    real: bool = False
    """On the tiny base, not on fake models."""
    at: int = 0
    """The operation to fail or to be killed at, from 1; 0 for none."""
    error: int = 0
    """What it fails with; 0 kills."""
    kill_after_s: float = 0.0
    starts_at: float = 0.0
    """Of time.monotonic."""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    """Where it is run; it is gone by then."""


def run(root: Path | str, *command: str, **how: Any) -> Ended:
    """Runs a command on a project in a fork, `stories` by default; `how` are the fields of How."""
    return start(root, *command, **how)()


def start(root: Path | str, *command: str, **how: Any) -> Callable[[], Ended]:
    """Starts a command as `run` does; what it returns waits for the end."""
    chosen = How(**how)
    told = Path(tempfile.mkdtemp(prefix="torture-told-"))
    child = os.fork()
    if not child:
        _child(str(root), command or ("stories",), told, chosen)
    began = time.monotonic()

    def wait() -> Ended:
        if chosen.kill_after_s:
            _kill_after(child, chosen.kill_after_s)
        _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - began
        lines = {n: _lines(told / n) for n in ("stderr", "log", "shim")}
        shutil.rmtree(told)
        said = [line for line in lines["stderr"] if line.startswith(("gonbuild:", "Traceback", " ", "usage"))]
        seen, _, failed = (lines["shim"] or ["0 "])[0].partition(" ")
        return Ended(os.waitstatus_to_exitcode(status), said, lines["log"], seconds, int(seen), failed)

    return wait


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _kill_after(child: int, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)


def _child(root: str, command: Sequence[str], told: Path, how: How) -> None:
    code = 99
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(told / name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ.update(how.env)
        if how.cwd:
            os.chdir(how.cwd)
            how.cwd.rmdir()
        time.sleep(max(0.0, how.starts_at - time.monotonic()))

        def load(folder: str, profile: str | None) -> Project:
            return open_logged(Path(folder), told / "log", real=how.real)

        name, *flags = command
        shim().torture_arm(os.fsencode(root), how.at, how.error)
        code = main([name, "--root", root, *flags], load)
        sys.stderr.flush()
        text = f"{shim().torture_seen()} {shim().torture_last().decode()}"
        shim().torture_arm(b"", 0, 0)
        (told / "shim").write_text(text, encoding="utf-8")
    finally:
        os._exit(code)


def make(root: Path, *, real: bool) -> Path:
    """Writes a project of three cards into a folder."""
    if real:
        write_tiny_base(root / "base")
    make_project(root, settings=REAL if real else "")
    return root


def edit(root: Path) -> None:
    """Changes one card, and with it the training rows."""
    edited = DECK.replace("+2 điểm cho Rừng", "+3 điểm cho Rừng").replace("Rừng tăng 2", "Rừng tăng 3")
    (root / "cards" / "thu.yaml").write_text(edited, encoding="utf-8")


def shipped(root: Path) -> dict[str, bytes]:
    """Returns the packs and the lock, by path, as a game or a reader of the folder sees them."""
    paths = [root / packs.LOCK, *sorted((root / packs.PACKS).glob("[!.]*"))]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def litter(root: Path) -> list[str]:
    """Returns what lies in build/ and is not finished; the report's goes when the next one is written."""
    found = [path for path in (root / "build").rglob(".*") if path.parent.name != "report"]
    return sorted(path.relative_to(root).as_posix() for path in found)


@dataclass(frozen=True)
class Before:
    """A project that cases start from, copied for each of them, and what a build that nobody disturbs makes of it."""

    root: Path
    earlier: dict[str, bytes]
    wanted: dict[str, bytes]
    seconds: float
    seen: int

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        """Lends a copy."""
        with tempfile.TemporaryDirectory() as name:
            yield Path(shutil.copytree(self.root, Path(name) / "game", symlinks=True))


@functools.cache
def before(*, real: bool, built: bool) -> Before:
    """Returns a project from which everything is to be built, or one of whose cards was edited since it was built."""
    RENDERER.end()  # a fork would share it
    if real:  # loaded once, here, and not in each fork
        import gonbuild.engine
        import gonbuild.training  # noqa: F401
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    root = make(folder / "game", real=real)
    if built:
        assert run(root, real=real).code == 0
        edit(root)
    earlier = shipped(root)
    with tempfile.TemporaryDirectory() as name:
        undisturbed = Path(shutil.copytree(root, Path(name) / "game"))
        ended = run(undisturbed, real=real)
        assert ended.code == 0, ended.said
        wanted = shipped(undisturbed)
        assert wanted != earlier
        assert litter(undisturbed) == []
    return Before(root, earlier, wanted, ended.seconds, ended.seen)


def preloaded(work: Callable[[int], list[str]], cases: Iterable[int], jobs: int) -> list[str]:
    """Returns the failures of all cases, as `outcome.spread` does, from processes with `io.c` preloaded."""
    with tempfile.TemporaryDirectory() as name:
        library = Path(name) / "io.so"
        compile_ = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(compile_, check=True)
        given = {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with processes(jobs, **given) as pool:
            return [line for lines in pool.map(work, cases) for line in lines]
