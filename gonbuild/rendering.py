"""Owns the process that templates run in: starts it, asks it, and ends it when a template wants too much of it.

It has the environment of nobody, so that no secret is within a template's reach, and knows no template itself.
"""

import atexit
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gonbuild.errors import InputError, MachineError, Problem
from gonbuild.records import digest

SECONDS, SECONDS_PER_MB = 0.5, 2.0
"""Of computing that a request may take, and more of it for each MB that it hands over (200 cards of a pack)."""
MEMORY, MEMORY_PER_BYTE = 192 << 20, 16
"""Bytes that the process may have, and more of them for each byte handed over."""
LONGEST = 200
"""Characters of what is quoted of a template."""
SLOWNESS = 60.0
"""Seconds that a second of computing may take on a busy machine where only a clock can tell."""

_NEEDED = ("SYSTEMROOT",)
"""Of the environment: Windows starts no process without it."""

# -S and a bare package: neither the site's start-up nor gonbuild's own imports are needed there, 0.3 s of them.
_PROGRAM = """\
import signal, sys, types
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = {path!r}
package = sys.modules["gonbuild"] = types.ModuleType("gonbuild")
package.__path__ = [{folder!r}]
from gonbuild.sandbox import limit_process, serve
serve(sys.stdin.buffer, sys.stdout.buffer, limit_process)
"""


class Renderer:
    """One process for the templates of all projects; it starts when it is first asked, and again when it was ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[str] = set()
        """Digests of the templates that the process has compiled."""
        self._lock = threading.Lock()

    def compile(self, name: str, text: str) -> None:
        """Compiles a template named `templates/card.txt`, say.

        Raises:
            InputError: it is no valid template, with its line, or takes too much to compile.
        """
        with self._lock:
            self._compile(name, text)

    def render(self, name: str, text: str, limit: int, values: Mapping[str, Any]) -> str:
        """Renders a template's text with values, into at most `limit` characters.

        Raises:
            InputError: it fails, with its line, or takes too much computing, memory or characters.
            MachineError: its process ended for no fault of the template's.
        """
        with self._lock:
            key = self._compile(name, text)
            answer = self._ask(name, "render", key, name, limit, values)
        if "long" in answer:
            raise InputError(Problem(name, f"makes more than {limit} characters", "Shorten it."))
        if "error" in answer:
            raise InputError(Problem(_place(name, answer), f"cannot be rendered: {_said(answer)}"))
        return str(answer["text"])

    def end(self) -> None:
        """Ends the process; who asks for something starts another."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.__exit__(None, None, None)
        self._process = None
        self._known.clear()

    def _compile(self, name: str, text: str) -> str:
        key = digest([name, text])
        self._running()  # one that was ended meanwhile knows nothing any more
        if key not in self._known:
            answer = self._ask(name, "compile", key, name, text)
            if "error" in answer:
                raise InputError(Problem(_place(name, answer), f"is no valid template: {_said(answer)}"))
            self._known.add(key)
        return key

    def _ask(self, name: str, what: str, *arguments: Any) -> dict[str, Any]:
        given = pickle.dumps(arguments)
        seconds, memory = SECONDS + SECONDS_PER_MB * len(given) / 1e6, MEMORY + MEMORY_PER_BYTE * len(given)
        process = self._running()
        watch = threading.Timer(seconds * SLOWNESS, process.kill)
        if not hasattr(signal, "setitimer"):
            watch.start()
        try:
            data = self._answer(process, pickle.dumps((seconds, memory, what, given)))
        finally:
            watch.cancel()
        if data is None:
            ended = process.wait()
            self.end()
            raise _error(name, ended, seconds)
        answer: dict[str, Any] = json.loads(data)
        if "memory" in answer:
            self.end()  # what it holds of this template may be much
            raise InputError(Problem(name, f"takes more than {memory >> 20} MiB of memory", "Make it simpler."))
        return answer

    @staticmethod
    def _answer(process: "subprocess.Popen[bytes]", request: bytes) -> bytes | None:
        """Sends a request and returns its answer, None where the process ended instead."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            size = process.stdout.read(8)
            data = process.stdout.read(int.from_bytes(size, "big"))
        except BrokenPipeError:
            return None
        except BaseException:  # interrupted: the answer to this request would be taken for the next one's
            process.kill()
            process.wait()
            raise
        return data if size and len(data) == int.from_bytes(size, "big") else None

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.end()
            program = _PROGRAM.format(path=sys.path, folder=str(Path(__file__).parent))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd=Path(sys.executable).anchor, env={k: os.environ[k] for k in _NEEDED if k in os.environ},
            )  # fmt: skip
        return self._process


def _said(answer: Mapping[str, Any]) -> str:
    """Returns what the template's engine says: it quotes what it stumbled over in full."""
    said = str(answer["error"])
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def _place(name: str, answer: Mapping[str, Any]) -> str:
    return f"{name}:{answer['line']}" if answer["line"] else name


def _error(name: str, ended: int, seconds: float) -> InputError | MachineError:
    """Returns what the end of the process, by a signal where it is negative, says of the template that it ran."""
    if ended >= 0:
        what = f"the process that renders templates did not start, or ended by itself with {ended}"
        return MachineError(Problem(name, what, "Run the command again, or install gonbuild again."))
    if -ended == getattr(signal, "SIGPROF", None):
        return InputError(Problem(name, f"takes more than {seconds:.1f} s of computing", "Make it simpler."))
    return InputError(Problem(name, f"takes so much that its process was ended (signal {-ended})", "Make it simpler."))


RENDERER = Renderer()
atexit.register(RENDERER.end)
