"""Owns the formats of the lock and of the packs, and nothing else: bytes in, records out, and back."""

import html
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gonbuild.errors import InputError, Problem
from gonbuild.records import TYPES, Card, Deck, Story, canonical, digest, slot_of

LOCK = "build/stories.lock.jsonl"
PACKS = "build/packs"
SCHEMA = 1
NAMES = ("stories.json", "stories.md")
JSON_HEAD = f'{{\n  "schema": {SCHEMA},\n  "deck": '.encode()
"""How every JSON pack starts: what else lies in the folder was not written by a build."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CARD = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Shipped:
    """What the lock says of one shipped story: its text by digest, and the figures it was chosen by."""

    id: str
    sha256: str
    candidate: int | None
    """None for a text that a person pinned or worded, like the figures."""
    score: float | None
    novelty: float | None
    before: str = ""
    """The text that the slot shipped before this one."""

    @property
    def slot(self) -> int:
        """From 1."""
        return slot_of(self.id)


@dataclass(frozen=True)
class Other:
    """A candidate that passed the filters and does not ship."""

    candidate: int
    text: str


@dataclass(frozen=True)
class Line:
    """One card's line of the lock."""

    card: str
    inputs: Mapping[str, Any]
    """name, type, effect, stories (count), prompt (digest), settings (digest of the stage settings)"""
    adapter: str
    """Key of the adapter that the stories were made with."""
    stories: tuple[Shipped, ...]
    signature: str
    """sacrebleu's, of every BLEU score here."""
    short: str = ""
    """Why fewer stories ship than the card wants; empty where none is missing."""
    rounds: int = 0
    """Rounds that were tried, for a card that fell short."""
    others: tuple[Other, ...] = ()
    """The best candidates that do not ship, for whoever would rather have one of them."""


@dataclass(frozen=True)
class Lock:
    """All lines by card id, and the stage settings that they name by digest."""

    lines: Mapping[str, Line] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_lock(data: bytes) -> Lock:
    """Reads the lock.

    Raises:
        InputError: naming every line that is no line of a lock (a merge conflict's marker, say).
    """
    lines: dict[str, Line] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    problems = []
    for number, raw in enumerate(data.splitlines(), 1):
        cure = (
            "Resolve the merge, or restore it with `git checkout HEAD -- build`; without it every card is made again."
        )
        what = f"is no line of a lock: {_excerpt(raw)}"
        try:
            row = json.loads(raw)
            if "values" in row:
                settings[row["settings"]] = row["values"]
                sound = row["settings"] == digest(row["values"])
            else:
                stories = tuple(Shipped(**s) for s in row.pop("stories"))
                others = tuple(Other(**o) for o in row.pop("others", ()))
                line = Line(stories=stories, others=others, **row)
                sound = _sound(line)
                if sound and line.card in lines:
                    sound, what = False, f"card '{line.card}' stands in a line above already"
                    cure = "Keep the line of the branch whose card and packs you keep, and delete the other."
                lines[line.card] = line
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            sound = False
        if not sound:
            problems.append(Problem(f"{LOCK}:{number}", what, cure))
    if problems:
        raise InputError(problems)
    return Lock(lines, settings)


def _sound(line: Line) -> bool:
    """Tells whether a line's values have the form a build gives them: a lock may come from a stranger."""
    stories = line.stories
    return (
        _CARD.fullmatch(line.card) is not None
        and all(_SHA256.fullmatch(key) for key in (line.adapter, *(s.sha256 for s in stories)))
        and all(re.fullmatch(rf"{line.card}\.[1-9][0-9]{{0,2}}", s.id) for s in stories)
        and all(a.slot < b.slot for a, b in pairwise(stories))
        and all(type(n) is int and 0 <= n < 1 << 31 for n in (line.rounds, *(o.candidate for o in line.others)))
        and all(s.candidate is None or (type(s.candidate) is int and 0 <= s.candidate < 1 << 31) for s in stories)
        and all(n is None or _is_figure(n) for s in stories for n in (s.score, s.novelty))
        and all(isinstance(t, str) for t in (*(s.before for s in stories), *(o.text for o in line.others)))
        and isinstance(line.inputs, dict)
        and _SHA256.fullmatch(line.inputs["settings"]) is not None
        and isinstance(line.signature, str)
        and isinstance(line.short, str)
    )


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _excerpt(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:40] + "...")


def lock_bytes(lock: Lock) -> bytes:
    """Writes the lock: stage settings in use, then one line per card sorted by id."""
    used = {str(line.inputs.get("settings")) for line in lock.lines.values()}
    rows: list[Any] = [{"settings": k, "values": lock.settings[k]} for k in sorted(used) if k in lock.settings]
    for _, line in sorted(lock.lines.items()):
        row = {**vars(line), "stories": [_without_empty(s, "before") for s in line.stories]}
        row["others"] = [vars(other) for other in line.others]
        rows.append({k: v for k, v in row.items() if v or k not in ("short", "rounds", "others")})
    return "".join(canonical(row) + "\n" for row in rows).encode()


def _without_empty(value: Any, name: str) -> dict[str, Any]:
    return {k: v for k, v in vars(value).items() if v or k != name}


def shipped(story: Story) -> Shipped:
    """Returns what the lock keeps of a story."""
    return Shipped(story.id, digest(story.text.encode()), story.candidate, story.score, story.novelty, story.before)


def pack_files(
    title: str,
    decks: Sequence[Deck],
    cards: Sequence[Card],
    stories: Mapping[str, Sequence[Story]],
    markdown: Callable[..., str],
) -> dict[str, bytes]:
    """Renders every pack file: stories.json and stories.md of all cards, and a JSON file per deck.

    `markdown` renders pack.md.jinja with `title` and `groups`.
    """
    by_id = {card.id: card for card in cards}
    files = {"stories.json": _json_pack(title, cards, stories)}
    for deck in decks:
        files[f"{deck.stem}.json"] = _json_pack(deck.title, [by_id[i] for i in deck.cards], stories)
    groups = [
        {"type": kind, "cards": [_markdown_card(c, stories.get(c.id, ())) for c in cards if c.type == kind]}
        for kind in TYPES
    ]
    text = markdown(title=title, groups=[g for g in groups if g["cards"]])
    files["stories.md"] = text.encode()
    return files


def _json_pack(title: str, cards: Iterable[Card], stories: Mapping[str, Sequence[Story]]) -> bytes:
    body = {
        card.id: {
            "name": card.name,
            "type": card.type,
            "effect": card.effect,
            "stories": [{"id": s.id, "text": s.text} for s in stories.get(card.id, ())],
        }
        for card in cards
    }
    pack = {"schema": SCHEMA, "deck": title, "cards": body}
    return (json.dumps(pack, ensure_ascii=False, indent=2) + "\n").encode()


def _markdown_card(card: Card, stories: Sequence[Story]) -> dict[str, Any]:
    told = [{"id": s.id, "text": s.text, "note": _note(s)} for s in stories]
    return {"id": card.id, "name": card.name, "effect": card.effect, "stories": told}


def _note(story: Story) -> str:
    score = round(story.score, 1) + 0.0  # what rounds to nothing has no sign
    return f"score {score:.1f}, novelty {story.novelty:.0f}"


def texts_by_digest(files: Mapping[str, bytes]) -> dict[str, str]:
    """Finds story texts in pack files, whole or damaged, keyed by their sha256.

    The lock names texts by digest, so a story that stands in any of the files is not lost with another one.
    """
    found = {}
    for name, data in files.items():
        text = data.decode("utf-8", "replace")
        if name.endswith(".json"):
            lines = [json.loads(m) for m in re.findall(r'"text": ("(?:[^"\\]|\\.)*")', text) if _is_json(m)]
        else:
            lines = [html.unescape(re.sub(r"\\(.)", r"\1", m)) for m in re.findall(r"^[-*\d.]+\s+(.*)$", text, re.M)]
        found.update({digest(line.encode()): line for line in lines})
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
