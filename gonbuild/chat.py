"""Owns the reading of cards and stories out of prose and chat-format training files; writes nothing."""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gonbuild.errors import InputError, Problem
from gonbuild.records import TYPES, Card
from gonbuild.sources import clean, decode, fault, places, short

CHAT_BYTES = 64 << 20

_LABELS = {
    "name": r"ten(?: cua)?(?: (?:la|the))?(?: bai)?|(?:la|the)(?: bai)?|card(?: name)?|name",
    "type": r"(?:the )?loai(?: (?:la|the))?(?: bai)?|(?:card )?type",
    "effect": r"hieu ung(?: cua)?(?: (?:la|the))?(?: bai)?|tac dung|effect",
}
_BLANK = " \t\r\n*_"
_ORDER = (*_LABELS,)
_LABEL = re.compile(rf"(?<!\w)(?:{'|'.join(f'(?P<{k}>{v})' for k, v in _LABELS.items())})[ *_]*[:=]")
_EXACT = re.compile(r"Tên thẻ: (.+)\nLoại: (.+)\nHiệu ứng: (.+)")
_REQUEST = re.compile(r"[.!?;]\s+(?:hãy|viết|kể|xin|vui lòng|em hãy|bạn hãy|hay viet|viet|write|tell)\b.*", re.I | re.S)
_NAMES = {"name": "Tên thẻ", "type": "Loại", "effect": "Hiệu ứng"}


@dataclass(frozen=True)
class Imported:
    """What a chat-format file holds: cards with their stories, and the lines that fit no card."""

    cards: tuple[Card, ...]
    unplaced: tuple[Problem, ...]


def import_chat(data: bytes, where: str) -> Imported:
    """Reads `{"messages": [{"role", "content"}, ...]}` a line; one card for each name, type and effect, in file order.

    A user turn names the card, the assistant turn after it is a story of it; a story that comes twice counts once.

    Raises:
        InputError: the file is no text.
    """
    text, problem = decode(data, where, CHAT_BYTES)
    if problem:
        raise InputError(problem)
    stories: dict[Card, dict[str, None]] = {}
    unplaced: list[Problem] = []
    for number, line in places(text):
        place = f"{where}:{number}"
        try:
            for card, story in _dialogue(line):
                stories.setdefault(replace(card, id="", where=place), {})[story] = None
        except InputError as e:
            unplaced += [Problem(place, p.what, p.wanted) for p in e.problems]
    return Imported(tuple(replace(card, examples=tuple(told)) for card, told in stories.items()), tuple(unplaced))


def _dialogue(line: str) -> Iterator[tuple[Card, str]]:
    """Yields each card of a dialogue with the story told of it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise InputError(f"is no valid JSON: {e}") from None
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise InputError(
            Problem("", "has no list of messages", 'Wanted {"messages": [{"role": ..., "content": ...}]}.')
        )
    asked: str | None = None
    told = 0
    for message in messages:
        content = message.get("content")
        if message.get("role") == "user":
            asked = content if isinstance(content, str) else ""
        elif message.get("role") == "assistant" and asked is not None:
            story = clean(content) if isinstance(content, str) else ""
            if not story or fault(story):
                raise InputError(f"the assistant's turn {fault(story) or 'has no text'}")
            yield parse_card_text(asked), story
            asked, told = None, told + 1
    if not told or asked is not None:
        raise InputError("has no user turn with an assistant turn after it")


def parse_card_text(text: str) -> Card:
    """Reads a card out of words such as `Tên thẻ: ... Loại: ... Hiệu ứng: ...`; its id is `try`.

    Labels may stand on one line or several, in any case, without accents, and with other words around them.

    Raises:
        InputError: naming each part that is missing or wrong.
    """
    text = unicodedata.normalize("NFC", text)
    exact = _EXACT.fullmatch(text)
    parts = dict(zip(_ORDER, exact.groups(), strict=True)) if exact else _parts(text)
    parts = {key: clean(value) for key, value in parts.items() if clean(value)}
    problems = [
        Problem("", f"the text has no '{_NAMES[key]}: ...'", "Wanted 'Tên thẻ: ... Loại: ... Hiệu ứng: ...'.")
        for key in _ORDER
        if key not in parts
    ]
    problems += [Problem("", f"{_NAMES[key]} {fault(part)}") for key, part in parts.items() if fault(part)]
    types = _types(parts.get("type", ""))
    if "type" in parts and len(types) != 1:
        problems.append(Problem("", f"unknown type '{short(parts['type'])}'", f"Wanted {', '.join(TYPES)}."))
    if problems:
        raise InputError(problems)
    return Card("try", parts["name"], types[0], parts["effect"])


def _parts(text: str) -> dict[str, str]:
    """Cuts a text at its labels; a label whose part is told already is a word like any other."""
    labels: list[re.Match[str]] = []
    told: dict[str, str] = {}
    for label in _LABEL.finditer(_bare(text)):
        last = str(labels[-1].lastgroup) if labels else ""
        if labels and not told.get(last):
            told[last] = text[labels[-1].end() : label.start()].strip(_BLANK)
        if not told.get(str(label.lastgroup)):
            labels.append(label)
    ends = [label.start() for label in labels[1:]] + [len(text)]
    parts: dict[str, str] = {}
    for label, end in zip(labels, ends, strict=False):
        value = text[label.end() : end].strip(_BLANK)
        value = _REQUEST.sub("", value.split("\n")[0]).rstrip(_BLANK + ".,;|/–—-")
        if len(value) > 1 and value[0] + value[-1] in ('""', "''", "“”", "«»"):
            value = value[1:-1]
        parts[str(label.lastgroup)] = value
    return parts


def _bare(text: str) -> str:
    """Returns an NFC text in small letters without accents, each character in its old place."""
    bare = (unicodedata.normalize("NFD", c)[0] for c in text)
    plain = "".join(bare).replace("đ", "d").replace("Đ", "d").replace("：", ":").replace("\t", " ").replace("\xa0", " ")
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in plain)


def _types(text: str) -> list[str]:
    """Returns the types that a text names."""
    bare = _bare(text)
    return [kind for kind in TYPES if re.search(rf"(?<!\w){_bare(kind)}(?!\w)", bare)]
