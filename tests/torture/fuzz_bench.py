"""Owns the project that fuzzed files are put into, and what must hold of every command that reads one; makes no input.

Limits are per command: CPU time of this process and its children, since a busy machine says nothing of gonbuild, and
growth of the memory in use.
"""

import contextlib
import faulthandler
import io
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes import FakeModels, make_project, open_project

from gonbuild import cli
from gonbuild.pipeline import Project

CPU_S, MEMORY = 1.0, 256 << 20
STOPPED_S, STUCK_S, KILLED_S = 4.0, 30.0, 120.0
"""CPU seconds, then wall seconds, after which a command is stopped; and those after which its process is ended."""
REFUSED = 2
"""Commands that refuse a file, after which the others are spared: they read it alike."""
ADDRESS_SPACE = 1 << 30
"""What a command may map beyond what is mapped before it: a memory bomb ends in a MemoryError, not the machine."""
LINE, OUTPUT = 2_000, 1 << 18
"""Characters of a line on stderr, and of all output, at most: nobody reads more."""

SETTINGS = "\n[tool.gonbuild.sampling]\ncandidates = 8\n\n[tool.gonbuild.selection]\nrounds = 2\n"
REVIEWS = """\
- {card: rung-001, approve: "STORY", by: Lan}
- {card: lang-001, ban: "Chợ họp ở đầu làng từ lúc trời còn tối, ai đi qua cũng dừng lại.", reason: "không rõ", by: Lan}
- {card: song-001, pin: "Bà con vớt rác trôi về bến đò suốt cả buổi chiều. Nước đục làm Sông mất 1 điểm.", slot: 1, effect: "-1 điểm cho Sông"}
- {card: rung-001, rating: "STORY", by: Lan, scores: {sense: 4, card: 5}}
"""
EXAMPLES = """\
{"name": "Thả Cá Giống", "type": "Bảo Vệ", "effect": "+1 điểm cho Sông", "stories": ["Các em mang cá giống ra bến thả xuống dòng nước trong. Sông tăng 1 điểm vì cá lại về."]}
{"name": "Cháy Đồi", "type": "Thiên Tai", "effect": "-2 điểm cho Rừng", "stories": ["Nắng gắt làm cỏ khô bắt lửa, đồi cháy suốt đêm. Rừng mất 2 điểm.", "Lửa lan nhanh theo gió qua ngọn đồi. Rừng mất 2 điểm vì cây non cháy hết."]}
"""
CHAT = """\
{"messages": [{"role": "system", "content": "Bạn kể chuyện."}, {"role": "user", "content": "Tên thẻ: Thả Cá Giống\\nLoại: Bảo Vệ\\nHiệu ứng: +1 điểm cho Sông"}, {"role": "assistant", "content": "Các em thả cá giống xuống bến. Sông tăng 1 điểm."}]}
{"messages": [{"role": "user", "content": "Viết truyện cho thẻ bài. Tên thẻ: Cháy Đồi. Loại: Thiên Tai. Hiệu ứng: -2 điểm cho Rừng. Hãy viết ngắn."}, {"role": "assistant", "content": "Lửa lan qua đồi. Rừng mất 2 điểm."}]}
"""

BUILT = (["plan"], ["stories"], ["plan"])
LOOKED_AT = (["why", "rung-001"], ["review", "--list"], ["report"])
TEMPLATES = ("system.txt", "card.txt", "chat.jinja", "pack.md.jinja", "report.html.jinja")


@dataclass(frozen=True)
class Kind:
    """A kind of file that is fuzzed: where it lies, which commands read it, and what else these may write."""

    path: str
    commands: tuple[list[str], ...]
    may_write: tuple[str, ...] = ()
    """Patterns of paths in the project, beside all of build/."""
    slower: float = 1.0
    """How many times as long as others its commands may take."""


_REVIEWED = (r"cards/\.?reviews\.yaml(\.\d+\.tmp)?",)
KINDS: dict[str, Kind] = {
    "deck": Kind("cards/thu.yaml", (*BUILT, ["check", "--release"], *LOOKED_AT)),
    # 4: settings may ask for 50 stories of hundreds of candidates, which is work and no reading
    "settings": Kind("pyproject.toml", (*BUILT, ["check", "--release"], ["review", "--list"]), slower=4.0),
    "reviews": Kind("cards/reviews.yaml", (*BUILT, ["review", "--list"], ["check", "--release"], ["report"],
                                           ["review", "--approve", "rung-001.1", "--by", "Na"]), _REVIEWED),
    "lock": Kind("build/stories.lock.jsonl", (["check"], *LOOKED_AT, *BUILT)),
    "examples": Kind("cards/examples/them.jsonl", (*BUILT, ["report"])),
    "chat": Kind("build/chat.jsonl", (["import", "build/chat.jsonl", "--force"], ["plan"]),
                 (r"cards/examples/\.?chat\.jsonl(\.\d+\.tmp)?",)),
    "candidates": Kind("build/report/candidates.jsonl", (*LOOKED_AT, ["review", "--pin", "lang-001.1", "--candidate",
                                                                      "lang-001.c5"], ["stories", "--refresh", "lang-001"]),
                       _REVIEWED),
    "form": Kind("build/packs/stories.md", (["plan"], ["review", "--from", "build/packs/stories.md"], ["stories"], ["plan"]),
                 _REVIEWED),
    **{name: Kind(f"templates/{name}", (*BUILT, ["report"])) for name in TEMPLATES},
}  # fmt: skip


class TooLongError(BaseException):
    """Ends a command that would not end; no Exception, since a command may catch those."""


class Bench:
    """A small valid project, built once, that each case starts from."""

    def __init__(self, folder: Path, cpu_s: float = CPU_S, main: Callable[..., int] = cli.main) -> None:
        """Builds the project in an empty folder; `cpu_s` is what a command may take, `main` what runs it."""
        self.root, self.cpu_s, self.main = folder.resolve(), cpu_s, main
        self.codes: list[int | str] = []
        """How the commands of the last case ended."""
        make_project(self.root, settings=SETTINGS)
        (self.root / "cards" / "examples").mkdir()
        (self.root / "cards" / "examples" / "them.jsonl").write_text(EXAMPLES, encoding="utf-8")
        self._must("stories")
        story = (
            (self.root / "build/packs/stories.md").read_text(encoding="utf-8").split("rung-001.1` ")[1].split("\n")[0]
        )
        (self.root / "cards" / "reviews.yaml").write_text(REVIEWS.replace("STORY", story), encoding="utf-8")
        self._must("stories")
        self._must("review", "--list")
        self._must("report")
        (self.root / "build/chat.jsonl").write_text(CHAT, encoding="utf-8")
        self.valid = self._files()
        self._cache = set(self._entries())
        for name, kind in KINDS.items():  # loads what is loaded late, so that no case pays for it
            if reason := self.check(name, self.valid[kind.path]):
                raise AssertionError(f"{name}, as it should be: {reason}")

    def _must(self, *argv: str) -> None:
        code, told = self._quietly(argv)
        if code not in (0, 1):
            raise AssertionError(f"{' '.join(argv)}: exit {code}: {told}")

    def check(self, name: str, data: bytes) -> str:
        """Returns what does not hold with these bytes in place of a kind's file, empty where all does."""
        reason = self._check(name, data)
        if reason.startswith(_SLOW) and "stopped" not in reason:  # once more: what it needed may have been loaded late
            return self._check(name, data)
        return reason

    def _check(self, name: str, data: bytes) -> str:
        kind = KINDS[name]
        self._reset()
        (self.root / kind.path).write_bytes(data)
        before = self._inputs()
        self.codes = []
        for argv in kind.commands:
            if self.codes.count(2) == REFUSED:
                break
            with _Watch(self.root, kind.may_write) as watch:
                code, told = self._quietly(argv)
            self.codes.append(code)
            reason = (
                _wrong(code, told) or watch.wrong(kind.slower * self.cpu_s) or self._changed(before, kind.may_write)
            )
            built = self.codes[-2] if "stories" in self._ran(kind) else 2
            if (
                not reason
                and built in (0, 1)
                and argv == ["plan"]
                and (code != built or "Nothing to do" not in told[0])
            ):
                reason = f"after a build that ended with {built}: exit {code}: {told[0][:200]}"
            if reason:
                return f"{reason} [{' '.join(argv)}]"
        return ""

    def _ran(self, kind: Kind) -> list[str]:
        """Returns the command before the last one that ran."""
        return kind.commands[len(self.codes) - 2] if len(self.codes) > 1 else []

    def _quietly(self, argv: Sequence[str]) -> tuple[int | str, tuple[str, str]]:
        """Runs a command; returns its exit code, or what it ended with instead, and what it printed."""

        def load(root: str, profile: str | None) -> Project:
            return open_project(Path(root), FakeModels())

        out, err = io.StringIO(), io.StringIO()
        argv = [str(self.root / word) if word.startswith("build/") else word for word in argv]
        code: int | str
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = self.main([*argv, "--root", str(self.root)], load)
            except TooLongError as e:
                code = f"{_SLOW}: {e}"
            except SystemExit as e:
                code = f"SystemExit {e.code}"
            except BaseException as e:
                code = f"{type(e).__name__}: {e}"
        return code, (out.getvalue(), err.getvalue())

    def _reset(self) -> None:
        found = self._files()
        for path in found.keys() - self.valid.keys():
            (self.root / path).unlink()
        for path, data in self.valid.items():
            if found.get(path) != data:
                (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / path).write_bytes(data)
        for path in set(self._entries()) - self._cache:
            shutil.rmtree(path)

    def _entries(self) -> list[Path]:
        return list((self.root / "build" / "cache").glob("*/*"))

    def _files(self) -> dict[str, bytes]:
        """Returns every file but the cache's."""
        found = {}
        for top, folders, names in os.walk(self.root):
            if top == str(self.root / "build"):
                folders[:] = [name for name in folders if name != "cache"]
            found |= {
                os.path.relpath(f"{top}/{name}", self.root): b"" for name in folders if os.path.islink(f"{top}/{name}")
            }
            found |= {os.path.relpath(f"{top}/{name}", self.root): Path(f"{top}/{name}").read_bytes() for name in names}
        return found

    def _inputs(self) -> dict[str, bytes]:
        return {path: data for path, data in self._files().items() if not path.startswith("build/")}

    def _changed(self, before: dict[str, bytes], may: Sequence[str]) -> str:
        now = self._inputs()
        changed = [path for path in {**before, **now} if before.get(path) != now.get(path)]
        lost = [path for path in changed if not _matches(path, may)]
        return f"changed {lost[0]}" if lost else ""


_SLOW = "took too long"


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def _wrong(code: int | str, told: tuple[str, str]) -> str:
    """Says what of a command's end and words is against the rules."""
    if code not in (0, 1, 2, 3):
        return f"{code}"
    for text in told:
        for sign in ("Traceback (most recent", "internal error: "):
            if sign in text:
                return text[text.index(sign) :][:200].strip()
    if code != 0 and not told[1]:
        return f"exit {code} without a word"
    if (longest := max(map(len, told[1].split("\n")))) > LINE:
        return f"a message of {longest // 1000},000 characters or more"
    if sum(map(len, told)) > OUTPUT:
        return f"printed more than {OUTPUT} characters"
    return ""


# --- what a command takes, and where it writes -----------------------------------------------------

_watching: "_Watch | None" = None
_hooked = False
_PLACES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate", "os.utime"), (0,)),
    **dict.fromkeys(("os.link", "os.symlink"), (1,)),
    "os.rename": (0, 1),
}
"""Audit events that change a path -> which of their arguments are such paths."""
_NOT_AT_ALL = ("socket.connect", "socket.getaddrinfo", "socket.bind", "os.system", "os.exec")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    if event == "open" and args[2] & _WRITING:
        _watching.writes(event, args[0])
    elif event in _PLACES:
        for at in _PLACES[event]:
            _watching.writes(event, args[at], next((fd for fd in args[1:] if type(fd) is int and fd > 2), -1))
    elif event in _NOT_AT_ALL:
        _watching.strays.append(event)
        raise PermissionError(f"{event} in a fuzzed project")


class _Watch:
    """Notes what a command takes and where it writes, and stops it where it would not end."""

    def __init__(self, root: Path, may_write: Sequence[str]) -> None:
        self.root, self.may_write = root, may_write
        self.strays: list[str] = []

    def writes(self, event: str, path: Any, folder: int = -1) -> None:
        """Notes a path that may not be written to; refuses it too where it is none of the project's."""
        if isinstance(path, int):
            return  # opened before, and noted then
        path = os.fsdecode(path)
        if not os.path.isabs(path) and folder > 2 and event not in ("os.chmod", "os.chown", "os.mkdir", "os.truncate"):
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        path = os.path.abspath(path)
        inside = os.path.relpath(path, self.root)
        if inside.startswith("build/") or path == os.devnull or _matches(inside, self.may_write):
            return
        if event == "os.mkdir" and os.path.isdir(path):
            return  # it is asked for in case it were missing
        self.strays.append(f"{event} {inside if not inside.startswith('..') else path}")
        if inside.startswith(".."):
            raise PermissionError(f"{event} outside of a fuzzed project")

    def __enter__(self) -> "_Watch":
        global _watching, _hooked
        if not _hooked:
            sys.addaudithook(_audit)
            _hooked = True
        self.cached, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the memory in use starts anew
        self.limit = resource.getrlimit(resource.RLIMIT_AS)
        self.size, self.memory = _memory("VmSize"), _memory("VmRSS")
        self.handlers = [(s, signal.signal(s, self._stop)) for s in (signal.SIGALRM, signal.SIGPROF)]
        # Again and again: an exception out of a destructor or callback would be swallowed.
        signal.setitimer(signal.ITIMER_PROF, STOPPED_S, 0.5)
        signal.setitimer(signal.ITIMER_REAL, STUCK_S, 1)
        faulthandler.dump_traceback_later(KILLED_S, exit=True)  # for code in C that heeds no signal
        self.cpu = _cpu_s()
        resource.setrlimit(resource.RLIMIT_AS, (self.size + ADDRESS_SPACE, self.limit[1]))
        _watching = self
        return self

    def __exit__(self, *_: object) -> None:
        global _watching
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _watching = None
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, self.limit)
        self.cpu = _cpu_s() - self.cpu
        self.memory = _memory("VmHWM") - self.memory
        sys.dont_write_bytecode = self.cached
        for number, handler in self.handlers:
            signal.signal(number, handler)

    def _stop(self, number: int, _frame: object) -> None:
        wall = number == signal.SIGALRM
        raise TooLongError(f"stopped after {STUCK_S if wall else STOPPED_S:g} s{'' if wall else ' of CPU time'}")

    def wrong(self, cpu_s: float) -> str:
        """Says what of it is against the rules."""
        if self.strays:
            return f"wrote where it may not: {self.strays[0]}"
        if self.cpu > cpu_s:
            return f"{_SLOW}: {self.cpu:.1f} s of CPU time"
        if self.memory > MEMORY:
            return f"took too much memory: {self.memory >> 20} MB"
        return ""


def _cpu_s() -> float:
    """Returns the CPU seconds of this process and its children, those that still run too."""
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    for child in _children():
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            used += (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
    return used


def _children() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            yield from (task / "children").read_text().split()


def _memory(name: str) -> int:
    """Returns a figure of this process's memory in bytes."""
    told = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", told)[1]) << 10  # type: ignore[index]
