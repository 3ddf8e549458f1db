"""Owns the templates: card to prompt, story to completion, stories to the reading pack; runs them sandboxed."""

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, select_autoescape
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gonbuild.errors import InputError, Problem
from gonbuild.records import END, Card, Prompt, digest
from gonbuild.sources import decode, read_bytes

SYSTEM, CARD, CHAT, PACK, REPORT = "system.txt", "card.txt", "chat.jinja", "pack.md.jinja", "report.html.jinja"
TEMPLATE_BYTES = 1 << 20
PROMPT_CHARACTERS, TEXT_CHARACTERS = 100_000, 100_000_000

_MARKUP = re.compile(r"[\\`*_{}\[\]|~]|:(?=//)|^(?:#|[-+=](?=[-+=\s]|$))|(?<=\s)#(?=#*$)")
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


_PADDING = ("ljust", "rjust", "center", "zfill", "format", "format_map", "expandtabs")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses what a few characters of template could fill the memory with; folds no such constant either."""

    intercepted_binops = frozenset(("*", "**"))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002 (jinja2's own)
        raise SecurityError(f"'{operator}' is not for templates")


def md(text: object) -> str:
    """Escapes a text so that Markdown and HTML show it as it is, on one line."""
    line = " ".join(str(text).split())
    return _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", line)).translate(_ENTITIES)


@dataclass(frozen=True)
class Templates:
    """The compiled templates of a project and what their chat form means."""

    sources: Mapping[str, str]
    """File name -> sha256 of its bytes, for keys."""
    compiled: Mapping[str, Template]

    def prompt(self, card: Card) -> Prompt:
        """Returns the prompt of a card up to where the story starts.

        Raises:
            InputError: a template fails, with its line.
        """
        user = self._text(CARD, PROMPT_CHARACTERS, card=_visible(card))
        return Prompt(self.chat(("system", self.system), ("user", user)), self._without_card)

    def completion(self, story: str) -> str:
        """Returns what a model shall write after the prompt: the story and the end of its turn."""
        return story + self.stop

    @cached_property
    def stop(self) -> str:
        """The text that ends a turn: what the chat template writes after the story, white space at its end aside.

        Raises:
            InputError: the dialogue does not start with the prompt, changes the story, or ends it with nothing.
        """
        story = "Truyện có 2 câu. Đây là câu thứ hai!"
        turns = (("system", self.system), ("user", "Tên thẻ: <X> & Y"))
        prompt, whole = self.chat(*turns), self.chat(*turns, ("assistant", story), generate=False)
        where = f"templates/{CHAT}"
        if not whole.startswith(prompt):
            raise InputError(Problem(where, "the dialogue does not start with the prompt", _CHAT_CURE))
        completion = whole[len(prompt) :].rstrip()
        if not completion.startswith(story):
            raise InputError(Problem(where, "the assistant's turn does not start with the story", _CHAT_CURE))
        if completion == story:
            raise InputError(Problem(where, "nothing ends the assistant's turn", "Write <|end|> after the content."))
        if (stop := completion.removeprefix(story)) != END:
            raise InputError(Problem(where, f"ends the assistant's turn with '{stop}'", f"Wanted {END}."))
        return stop

    def render(self, name: str, **values: Any) -> str:
        """Renders a template such as `pack.md.jinja`; the text ends with one line feed.

        In `*.html.jinja` every value is escaped for HTML, but for Markup.

        Raises:
            InputError: the template fails, with its line, or the project has no such template.
        """
        if name not in self.compiled:
            cure = "Copy it from gonbuild's own templates/: projects that began before it was there lack it."
            raise InputError(Problem(f"templates/{name}", "no such template", cure))
        return self._text(name, TEXT_CHARACTERS, **values).rstrip("\n") + "\n"

    @cached_property
    def system(self) -> str:
        """The system turn of every dialogue."""
        return self._text(SYSTEM, PROMPT_CHARACTERS)

    @cached_property
    def _without_card(self) -> str:
        return self.chat(("system", self.system))

    def chat(self, *turns: tuple[str, str], generate: bool = True) -> str:
        """Returns the dialogue of turns, (role, content) each, with the assistant's turn opened after them."""
        messages = [{"role": role, "content": content} for role, content in turns]
        return self._text(CHAT, PROMPT_CHARACTERS, messages=messages, add_generation_prompt=generate)

    def _text(self, name: str, limit: int, **values: Any) -> str:
        pieces: list[str] = []
        size = 0
        try:
            for piece in self.compiled[name].generate(values):
                size += len(piece)
                if size > limit:
                    raise InputError(Problem(f"templates/{name}", f"makes more than {limit} characters", "Shorten it."))
                pieces.append(piece)
        except InputError:
            raise
        except Exception as e:  # a template is a program of the user's: whatever it raises is a mistake in it
            raise InputError(Problem(_line(name, e), f"cannot be rendered: {_said(e)}")) from None
        return "".join(pieces)


_CHAT_CURE = "Wanted each message's content as it is, and add_generation_prompt to open the assistant's turn alone."


def load_templates(root: Path) -> Templates:
    """Reads and compiles every template of `root/templates`, and tries the chat form.

    A project without a template for the report has no report; it lacks nothing else.

    Raises:
        InputError: a file is missing or no text, a syntax error with its line, or a chat template without use.
    """
    environment = _Sandbox(undefined=StrictUndefined, autoescape=select_autoescape(("html.jinja",), default=False))
    environment.filters["md"] = md
    for name in ("random", "center", "format", "indent"):  # another text each time, or a text without end
        del environment.filters[name]
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    sources, compiled, problems = {}, {}, []
    optional = (REPORT,) if (root / "templates" / REPORT).exists() else ()
    for name in (SYSTEM, CARD, CHAT, PACK, *optional):
        where = f"templates/{name}"
        data, problem = read_bytes(root / where, root, TEMPLATE_BYTES)
        text, unread = ("", problem) if problem else decode(data, where, TEMPLATE_BYTES)
        if unread:
            problems.append(unread)
            continue
        sources[name] = digest(data)
        try:
            code = environment.compile(text, name, where)
            compiled[name] = Template.from_code(environment, code, environment.globals)
        except TemplateSyntaxError as e:
            problems.append(Problem(f"{where}:{e.lineno}", f"is no valid template: {e.message}"))
        except Exception as e:  # the compiler folds constants, so it can raise what the template would
            problems.append(Problem(where, f"is no valid template: {_said(e)}"))
    if problems:
        raise InputError(problems)
    templates = Templates(sources, compiled)
    _ = templates.stop
    return templates


def _visible(card: Card) -> dict[str, str]:
    """Returns what a template may know of a card: never its examples."""
    return {"id": card.id, "name": card.name, "type": card.type, "effect": card.effect, "deck": card.deck}


def _line(name: str, error: Exception) -> str:
    """Finds the template's line in a traceback, which jinja2 rewrites to the template's own."""
    where = f"templates/{name}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where]
    return f"{where}:{lines[-1]}" if lines else where


def _said(error: Exception) -> str:
    said = error.message if isinstance(error, TemplateError) else str(error)
    return (said or type(error).__name__).rstrip(".")
