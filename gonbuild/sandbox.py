"""Owns running templates: compiles and renders what may be a stranger's program, and says which line of it fails.

`serve` is all that a child process does, with little time and memory for each request; `rendering` talks to it.
"""

import contextlib
import json
import pickle
import signal
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, select_autoescape
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gonbuild.markdown import md

_PADDING = ("ljust", "rjust", "center", "zfill", "format", "format_map", "expandtabs")

Answer = dict[str, Any]
"""`text`, or `error` with the `line` of the template, 0 where it is not known."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses what a few characters of template could fill the memory with; folds no such constant either."""

    intercepted_binops = frozenset(("*", "**"))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002 (jinja2's own)
        raise SecurityError(f"'{operator}' is not for templates")


def environment() -> ImmutableSandboxedEnvironment:
    """Returns where templates are compiled: sandboxed, and the same text each time."""
    made = _Sandbox(undefined=StrictUndefined, autoescape=select_autoescape(("html.jinja",), default=False))
    made.filters["md"] = md
    for name in ("random", "center", "format", "indent"):  # another text each time, or a text without end
        del made.filters[name]
    for name in ("lipsum", "cycler", "joiner"):
        del made.globals[name]
    return made


class Runner:
    """Compiles and renders; templates are known by the digest of their text."""

    def __init__(self) -> None:
        self._environment = environment()
        self._compiled: dict[str, Template] = {}

    def compile(self, key: str, name: str, text: str) -> Answer:
        """Compiles a template, `templates/card.txt` say, and keeps it under a key."""
        try:
            code = self._environment.compile(text, name.removeprefix("templates/"), name)
            self._compiled[key] = Template.from_code(self._environment, code, self._environment.globals)
        except TemplateSyntaxError as e:
            return {"error": e.message, "line": e.lineno}
        except MemoryError:
            raise
        except Exception as e:  # the compiler folds constants, so it can raise what the template would
            return {"error": _said(e), "line": 0}
        return {"text": ""}

    def render(self, key: str, name: str, limit: int, values: Mapping[str, Any]) -> Answer:
        """Renders a template that was compiled, as far as the text has no more than `limit` characters."""
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._compiled[key].generate(values):
                size += len(piece)
                if size > limit:
                    return {"long": limit}
                pieces.append(piece)
        except MemoryError:
            raise
        except Exception as e:  # a template is a program of the user's: whatever it raises is a mistake in it
            return {"error": _said(e), "line": _line(name, e)}
        return {"text": "".join(pieces)}


def serve(reader: BinaryIO, writer: BinaryIO, limit: Callable[[float, int], object]) -> None:
    """Answers requests until there are no more: pickles in, from whoever started this process, and JSON out.

    `limit` is told each request's seconds of computing and bytes of memory before the work on it begins. A template
    that got out of the sandbox could write no pickle, which is why the answers are none.
    """
    runner = Runner()
    while True:
        try:
            seconds, memory, what, given = pickle.load(reader)
        except EOFError:
            return
        limit(seconds, memory)
        try:
            data = json.dumps(getattr(runner, what)(*pickle.loads(given))).encode()
        except MemoryError:
            data = b'{"memory": true}'
        limit(0, 0)
        writer.write(len(data).to_bytes(8, "big") + data)
        writer.flush()


def limit_process(seconds: float, memory: int) -> None:
    """Lets this process compute and allocate so much, 0 for any amount; beyond the first it is ended by a signal.

    Where the system has no such limits there are none.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        import resource
    except ImportError:  # pragma: no cover  Windows has no such limits
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError, OSError):  # macOS knows the limit, and need not take one
        resource.setrlimit(resource.RLIMIT_AS, (memory or most, most))


def _line(name: str, error: Exception) -> int:
    """Finds the template's line in a traceback, which jinja2 rewrites to the template's own."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return (lines[-1] or 0) if lines else 0


def _said(error: Exception) -> str:
    said = error.message if isinstance(error, TemplateError) else str(error)
    return (said or type(error).__name__).rstrip(".")
