"""Owns the decks and the example stories: reads both strictly, all mistakes at once; judges no story."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gonbuild.errors import InputError, Problem
from gonbuild.fields import CARD_ID, EFFECT, STORY, TITLE, Reader, Schema, json_value, known, lacking, text_field
from gonbuild.nodes import Node, read_yaml
from gonbuild.records import TYPES, Card, Deck
from gonbuild.sources import DEVICE_NAMES, decode, in_order, places, read_bytes, short

DECK_BYTES, EXAMPLES_BYTES = 1 << 20, 8 << 20
NOT_A_DECK = "reviews.yaml"
TAKEN = "stories"
"""The pack of all decks has this name."""


def _mapping(fields: Mapping[str, Schema], *optional: str) -> Schema:
    required = [key for key in fields if key not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


_STORIES: Schema = {
    "description": "Stories that a person wrote; they are training data.",
    "type": "array",
    "items": text_field("One or two sentences that tell the effect.", maxLength=STORY),
    "minItems": 1,
}
_FACTS = {
    "name": text_field("The card's name as the game prints it.", maxLength=TITLE),
    "type": text_field("The card's type.", enum=list(TYPES)),
    "effect": text_field("The card's effect as the game prints it; its stories tell it.", maxLength=EFFECT),
}
_COUNT = {"description": "How many stories to ship, else `selection.stories`.", "type": "integer"}
_CARD = _mapping(
    {"id": CARD_ID, **_FACTS, "examples": _STORIES, "stories": {**_COUNT, "minimum": 1, "maximum": 50}},
    "examples",
    "stories",
)
_CARDS = {"description": "The deck's cards, in the order of its pack.", "type": "array", "items": _CARD, "minItems": 1}
_DECK = _mapping({"deck": text_field("The deck's title.", maxLength=TITLE), "cards": _CARDS})
_EXAMPLE = _mapping({**_FACTS, "stories": _STORIES})


@dataclass(frozen=True)
class Library:
    """All decks, their cards in deck order, and the example cards, whose ids are empty."""

    decks: tuple[Deck, ...]
    cards: tuple[Card, ...]
    examples: tuple[Card, ...]


def read_library(root: Path) -> Library:
    """Reads `cards/*.yaml` but the reviews, and `cards/examples/*.jsonl`, files sorted by name.

    Raises:
        InputError: every mistake of every file, with its line and column.
    """
    folder = root / "cards"
    decks: list[Deck] = []
    cards: list[Card] = []
    examples: list[Card] = []
    problems: list[Problem] = []
    for path in (path for path in _files(folder, ".yaml") if path.name != NOT_A_DECK):
        data, problem = read_bytes(path, root, DECK_BYTES)
        if problem:
            problems.append(problem)
        else:
            deck, found, wrong = parse_deck(data, path.relative_to(root).as_posix())
            decks.append(deck)
            cards += found
            problems += wrong
    for path in _files(folder / "examples", ".jsonl"):
        data, problem = read_bytes(path, root, EXAMPLES_BYTES)
        if problem:
            problems.append(problem)
        else:
            found, wrong = parse_examples(data, path.relative_to(root).as_posix())
            examples += found
            problems += wrong
    misnamed = [path.relative_to(root).as_posix() for path in _files(folder, ".yml")]
    problems += [Problem(where, "is not read", "Name it '.yaml'.") for where in misnamed]
    if not decks and not problems:
        problems.append(Problem("cards", "has no deck", "Wanted a file such as cards/bao-ve.yaml."))
    problems += _twice(cards)
    if problems:
        raise InputError(problems)
    return Library(tuple(decks), tuple(cards), tuple(examples))


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def _twice(cards: Iterable[Card]) -> Iterator[Problem]:
    """Names ids and names that two cards share."""
    seen: dict[tuple[str, str], Card] = {}
    for card in cards:
        for what, text in (("id", card.id), ("name", card.name)):
            other = seen.setdefault((what, text.casefold()), card)
            if text and other is not card:
                yield Problem(card.where, f"card '{card.id}': the {what} '{text}' is taken", f"See {other.where}.")


def parse_deck(data: bytes, where: str) -> tuple[Deck, tuple[Card, ...], list[Problem]]:
    """Reads one deck file; `where` is its path in the project, whose stem names the pack.

    Cards with a mistake are left out, whatever the bytes are; each mistake is a problem.
    """
    root, problems = read_yaml(data, where, DECK_BYTES)
    stem = Path(where).stem
    if stem.lower() in (*DEVICE_NAMES, TAKEN):
        problems.append(Problem(where, f"'{stem}' cannot name a pack", "Rename the file."))
    cards: list[Card] = []
    title = ""
    if root is not None:
        reader = Reader(where, problems)
        values = reader.fields(root, _DECK, "the file")
        title = values.get("deck", "")
        for node in values.get("cards", ()):
            before = len(problems)
            found = reader.fields(node, _CARD, _label(node))
            stories = tuple(item.value for item in found.pop("examples", ()))
            if len(problems) == before and found.keys() >= {*_CARD["required"]} and None not in stories:
                cards.append(
                    Card(**{"stories": None, **found}, deck=stem, examples=stories, where=f"{where}:{node.line}")
                )
    return Deck(stem, title, tuple(card.id for card in cards)), tuple(cards), in_order(problems, where)


def _label(node: Node) -> str:
    """Says which card a message is about, by its id where that can be read."""
    fields = node.value if isinstance(node.value, dict) else {}
    id_ = fields["id"][1].value if "id" in fields else None
    return f"card '{short(id_)}'" if isinstance(id_, str) and id_ else "a card"


def parse_examples(data: bytes, where: str) -> tuple[tuple[Card, ...], list[Problem]]:
    """Reads one file of example cards, a JSON object a line: name, type, effect, stories; nothing else is taken."""
    text, problem = decode(data, where, EXAMPLES_BYTES)
    if problem:
        return (), [problem]
    cards, problems = [], []
    for number, line in places(text):
        card, wrong = _example(line, f"{where}:{number}")
        cards += [card] if card else []
        problems += wrong
    return tuple(cards), in_order(problems, where)


def _example(line: str, where: str) -> tuple[Card | None, list[Problem]]:
    fields = _EXAMPLE["properties"]
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except json.JSONDecodeError as e:
        return None, [Problem(f"{where}:{e.colno}", f"is no valid JSON: {e.msg[0].lower()}{e.msg[1:]}")]
    except (ValueError, RecursionError) as e:
        return None, [Problem(where, f"is no valid JSON: {e}")]
    if not isinstance(row, dict):
        return None, [Problem(where, "is no JSON object", f"Wanted {', '.join(fields)}.")]
    problems = [Problem("", f"unknown key '{short(key)}'", known(key, fields)) for key in row if key not in fields]
    if missing := lacking(row, _EXAMPLE):
        problems.append(Problem("", f"has no {missing}"))
    values = {}
    for key in (key for key in fields if key in row):
        values[key], wrong = json_value(row[key], fields[key], key)
        problems += wrong
    if problems or len(values) < len(fields):
        return None, [Problem(where, p.what, p.wanted) for p in problems]
    stories = tuple(values.pop("stories"))
    return Card("", **values, examples=stories, where=where), []


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key '{short(next(k for n, k in enumerate(keys) if k in keys[:n]))}'")
    return row


def examples_jsonl(cards: Iterable[Card]) -> str:
    """Writes cards in the format of `cards/examples`."""
    rows = ({"name": c.name, "type": c.type, "effect": c.effect, "stories": list(c.examples)} for c in cards)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def card_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a deck file, for editors; made from the reader's own table."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "gonbuild deck", **_DECK}
