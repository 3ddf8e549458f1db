"""Owns the templates: card to prompt, story to completion, stories to the reading pack; runs none in this process."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gonbuild.errors import InputError, Problem
from gonbuild.records import END, Card, Prompt, digest
from gonbuild.rendering import RENDERER
from gonbuild.sources import decode, read_bytes, short

SYSTEM, CARD, CHAT, PACK, REPORT = "system.txt", "card.txt", "chat.jinja", "pack.md.jinja", "report.html.jinja"
TEMPLATE_BYTES = 1 << 20
PROMPT_CHARACTERS, TEXT_CHARACTERS = 100_000, 100_000_000


@dataclass(frozen=True)
class Templates:
    """The templates of a project and what their chat form means."""

    sources: Mapping[str, str]
    """File name -> sha256 of its bytes, for keys."""
    texts: Mapping[str, str]
    """File name -> template."""

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
            raise InputError(Problem(where, f"ends the assistant's turn with '{short(stop)}'", f"Wanted {END}."))
        return stop

    def render(self, name: str, **values: Any) -> str:
        """Renders a template such as `pack.md.jinja`; the text ends with one line feed.

        In `*.html.jinja` every value is escaped for HTML, but for Markup.

        Raises:
            InputError: the template fails, with its line, or the project has no such template.
        """
        if name not in self.texts:
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
        return RENDERER.render(f"templates/{name}", self.texts[name], limit, values)


_CHAT_CURE = "Wanted each message's content as it is, and add_generation_prompt to open the assistant's turn alone."


def load_templates(root: Path) -> Templates:
    """Reads and compiles every template of `root/templates`, and tries the chat form.

    A project without a template for the report has no report; it lacks nothing else.

    Raises:
        InputError: a file is missing or no text, a syntax error with its line, or a chat template without use.
    """
    sources, texts, problems = {}, {}, []
    optional = (REPORT,) if (root / "templates" / REPORT).exists() else ()
    for name in (SYSTEM, CARD, CHAT, PACK, *optional):
        where = f"templates/{name}"
        data, problem = read_bytes(root / where, root, TEMPLATE_BYTES)
        text, unread = ("", problem) if problem else decode(data, where, TEMPLATE_BYTES)
        if unread:
            problems.append(unread)
            continue
        sources[name], texts[name] = digest(data), text
        try:
            RENDERER.compile(where, text)
        except InputError as e:
            problems += e.problems
    if problems:
        raise InputError(problems)
    templates = Templates(sources, texts)
    _ = templates.stop
    return templates


def _visible(card: Card) -> dict[str, str]:
    """Returns what a template may know of a card: never its examples."""
    return {"id": card.id, "name": card.name, "type": card.type, "effect": card.effect, "deck": card.deck}
