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
from gonbuild.records import TYPES, Card, Deck, Story, canonical, digest
from gonbuild.sources import clean, fault, in_order

LOCK = "build/stories.lock.jsonl"
PACKS = "build/packs"
FORM = f"{PACKS}/stories.md"
"""The pack for reading, which is the review form too."""
SCHEMA = 1
NAMES = ("stories.json", "stories.md")
JSON_HEAD = f'{{\n  "schema": {SCHEMA},\n  "deck": '.encode()
"""How every JSON pack starts: what else lies in the folder was not written by a build."""

RESTORE = "Resolve the merge, or restore it with `git checkout HEAD -- build`; without it every card is made again."
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CARD = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


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
    stories: tuple[Story, ...]
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


def read_lock(data: bytes, *, checked: bool = False) -> Lock:
    """Reads the lock; one that was `checked` before, to the byte, is taken at its word.

    Raises:
        InputError: naming every line that is no line of a lock (a merge conflict's marker, say), or is not as written.
    """
    lines: dict[str, Line] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    problems = []
    if data and not data.endswith(b"\n"):
        problems.append(Problem(LOCK, "breaks off: its last line has no end", RESTORE))
    for number, raw in enumerate(data.splitlines(), 1):
        cure, what = RESTORE, ""
        try:
            row = json.loads(raw)
            if "values" in row:
                settings[row["settings"]] = row["values"]
                sound = row["settings"] == digest(row["values"])
            else:
                told = row.pop("digest")
                line = _line(row)
                sound = checked or _sound(line)
                whole = checked or _digest_of(raw, told)
                if sound and not whole:
                    sound, what = False, f"the line of card '{line.card}' is not as a build wrote it"
                elif sound and line.card in lines:
                    later = _later(lines[line.card], line)
                    sound, what = later is not None, f"card '{line.card}' stands in a line above already"
                    cure = "Keep the line of the branch whose card and packs you keep, and delete the other."
                    line = later or line
                lines[line.card] = line
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            sound = False
        if not sound:
            problems.append(Problem(f"{LOCK}:{number}", what or f"is no line of a lock: {_excerpt(raw)}", cure))
    if problems:
        raise InputError(in_order(problems, LOCK))
    return Lock(lines, settings)


def _later(one: Line, other: Line) -> Line | None:
    """Returns which of two lines of a card was made from the other; None where neither was.

    A union of two branches keeps both where one made a card anew and the other added one beside it.
    """
    return next((line for line, old in ((one, other), (other, one)) if _follows(line, old)), None)


def _follows(line: Line, old: Line) -> bool:
    texts = {story.slot: (story.text, *story.before) for story in line.stories}
    return all(story.text in texts.get(story.slot, ()) for story in old.stories)


def _digest_of(raw: bytes, told: str) -> bool:
    """Tells whether a line is as it was written: its digest is that of the line without it."""
    return digest(raw.replace(f'"digest":"{told}",'.encode(), b"", 1)) == told


def _line(row: dict[str, Any]) -> Line:
    stories = tuple(
        Story(**{**s, "before": tuple(s["before"])}) if "before" in s else Story(**s) for s in row.pop("stories")
    )
    others = tuple(Other(**o) for o in row.pop("others", ()))
    return Line(stories=stories, others=others, **row)


def _sound(line: Line) -> bool:
    """Tells whether a line's values have the form a build gives them: a lock may come from a stranger."""
    stories = line.stories
    texts = [s.text for s in stories] + [t for s in stories for t in s.before] + [o.text for o in line.others]
    joined = " ".join(texts)
    slots = [s.slot for s in stories]
    numbers = [line.rounds, *(o.candidate for o in line.others), *(s.candidate or 0 for s in stories)]
    return (
        _CARD.fullmatch(line.card) is not None
        and _SHA256.fullmatch(line.adapter) is not None
        and [s.id for s in stories] == [f"{line.card}.{slot}" for slot in slots]
        and all(a < b for a, b in pairwise((0, *slots, 100)))
        and all(type(n) is int and 0 <= n < 1 << 31 for n in numbers)
        and all(n is None or _is_figure(n) for s in stories for n in (s.score, s.novelty))
        and all(texts)
        and joined == clean(joined)
        and not fault(joined)
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
        row = {**vars(line), "stories": [_filled(s) for s in line.stories], "others": [vars(o) for o in line.others]}
        row = {k: v for k, v in row.items() if v or k not in ("short", "rounds", "others")}
        rows.append({**row, "digest": digest(row)})
    return "".join(canonical(row) + "\n" for row in rows).encode()


def _filled(story: Story) -> dict[str, Any]:
    return {k: v for k, v in vars(story).items() if v not in (None, ())}


def pack_files(
    title: str,
    decks: Sequence[Deck],
    cards: Sequence[Card],
    stories: Mapping[str, Sequence[Story]],
    form: Callable[[Card], Mapping[str, Any]],
    markdown: Callable[..., str],
) -> dict[str, bytes]:
    """Renders every pack file: stories.json and stories.md of all cards, and a JSON file per deck.

    `markdown` renders pack.md.jinja with `title` and `groups`; `form` gives what it is told of a card.
    """
    by_id = {card.id: card for card in cards}
    files = {"stories.json": _json_pack(title, cards, stories)}
    for deck in decks:
        files[f"{deck.stem}.json"] = _json_pack(deck.title, [by_id[i] for i in deck.cards], stories)
    groups = [{"type": kind, "cards": [form(c) for c in cards if c.type == kind]} for kind in TYPES]
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


@dataclass(frozen=True)
class Entry:
    """One line of stories.md that holds a story, as it stands there."""

    line: int
    """From 1."""
    box: str
    """What stands between the brackets, white space around it aside."""
    id: str
    """`bao-ve-001.2`, or `bao-ve-001.c17` for candidate 17, which does not ship."""
    text: str


_CHECK = re.compile(r"^<!-- ([a-z0-9][a-z0-9-]{0,63}) ([0-9a-f]{8})\b", re.M)
_NO_CHARACTER = re.compile(r"&#[0-9]{100,};?")
_ENTRY = re.compile(r"^[-*] +\[([^\]\n]*)\] *`([a-z0-9][a-z0-9-]{0,63}\.c?[0-9]{1,10})` *(.*)$")


def form_entries(text: str) -> list[Entry]:
    """Reads the stories of stories.md, whole or damaged, with their boxes."""
    return [
        Entry(n, m[1].strip(), m[2], _unescaped(m[3]))
        for n, line in enumerate(text.splitlines(), 1)
        if (m := _ENTRY.match(line))
    ]


def _unescaped(text: str) -> str:
    """Takes Markdown's and HTML's escapes out; a number too long for Python to read is no character's."""
    plain = _NO_CHARACTER.sub("\ufffd", re.sub(r"\\(.)", r"\1", text))
    return html.unescape(plain).strip()


def form_check(entries: Iterable[tuple[str, str, str]]) -> str:
    """Returns what a card's block of stories.md holds of its entries (id, box, text), so that an edit is seen."""
    return digest([[id_, box.strip(), text] for id_, box, text in entries])[:8]


def form_checks(text: str) -> dict[str, str]:
    """Reads what each block of stories.md holds of its entries, by card id."""
    return {m[1]: m[2] for m in _CHECK.finditer(text)}
