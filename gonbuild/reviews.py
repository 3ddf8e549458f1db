"""Owns people's decisions on stories: how `cards/reviews.yaml` is read strictly, and what it asks for.

It judges no story and writes no file; `decisions` puts a decision into the file's text.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gonbuild.errors import Problem, near, one_of
from gonbuild.fields import CARD_ID, EFFECT, STORY, Reader, Schema, text_field
from gonbuild.language import fold, sentences, words
from gonbuild.records import Card
from gonbuild.sources import decode, in_order, short

if TYPE_CHECKING:
    from gonbuild.nodes import Node

REVIEWS = "cards/reviews.yaml"
REVIEWS_BYTES = 16 << 20
PIN, EDIT, APPROVE, BAN, RATING = KINDS = ("pin", "edit", "approve", "ban", "rating")
CRITERIA = ("sense", "card", "effect", "language")
SLOTS = 50
NAME = 64
"""Characters of a reviewer's name at most."""
LIMITS: Mapping[str, int] = {"text": STORY, "replaces": STORY, "effect": EFFECT, "reason": EFFECT, "by": NAME}
"""Field of a decision -> characters at most."""


_SCORE = {"type": "integer", "minimum": 1, "maximum": 5}
_SCORES: Schema = {
    "description": "Marks from 1, poor, to 5, very good; those that are left out were not given.",
    "type": "object",
    "properties": {
        "sense": {"description": "It makes sense, and what it says of nature is true.", **_SCORE},
        "card": {"description": "It is about this card.", **_SCORE},
        "effect": {"description": "It tells the effect, and in passing.", **_SCORE},
        "language": {"description": "It is good Vietnamese for children of 7 to 12.", **_SCORE},
    },
    "required": [],
    "minProperties": 1,
    "additionalProperties": False,
}
_SLOT = {"description": "Which of the card's stories it is.", "type": "integer", "minimum": 1, "maximum": SLOTS}
_EFFECT = text_field("The card's effect when this was decided; with another one the pin is stale.", maxLength=EFFECT)


def _text(description: str) -> Schema:
    return text_field(description, maxLength=STORY)


_OWN: Mapping[str, tuple[Mapping[str, Schema], tuple[str, ...]]] = {
    PIN: ({"pin": _text("This text ships, word for word."), "slot": _SLOT, "effect": _EFFECT}, ()),
    EDIT: (
        {
            "edit": _text("This wording of a person ships, word for word."),
            "slot": _SLOT,
            "effect": _EFFECT,
            "replaces": _text("The text that was edited."),
        },
        (),
    ),
    APPROVE: ({"approve": _text("This text may ship.")}, ()),
    BAN: (
        {
            "ban": _text("Neither this text nor a near copy of it ships."),
            "reason": text_field("Why not.", maxLength=EFFECT),
        },
        (),
    ),
    RATING: ({"rating": _text("The text that is rated."), "scores": _SCORES}, ("by",)),
}
_CARD: Schema = {**CARD_ID, "description": "Id of the card."}
_BY = text_field("Who decided.", maxLength=NAME)


def _schema(kind: str) -> Schema:
    own, required = _OWN[kind]
    return {
        "type": "object",
        "properties": {"card": _CARD, **own, "by": _BY},
        "required": ["card", *own, *required],
        "additionalProperties": False,
    }


@dataclass(frozen=True)
class Decision:
    """One decision of a person on one text of a card."""

    card: str
    kind: str
    """One of KINDS."""
    text: str
    """NFC, on one line."""
    slot: int = 0
    """Of a pin or an edit, from 1."""
    effect: str = ""
    """Of a pin or an edit: the card's when it was made."""
    replaces: str = ""
    """Of an edit: what was edited."""
    reason: str = ""
    """Of a ban."""
    by: str = ""
    scores: Mapping[str, int] = field(default_factory=dict)
    """Of a rating: criterion -> 1 to 5."""
    line: int = field(default=0, compare=False)
    """Where it stands in the file, from 1; 0 for one that stands nowhere yet."""

    @property
    def where(self) -> str:
        """`cards/reviews.yaml:4`"""
        return f"{REVIEWS}:{self.line}"

    @property
    def ships(self) -> bool:
        """Whether it puts its text into a slot."""
        return self.kind in (PIN, EDIT)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What decisions are sorted by in the file: card, text, kind and reviewer."""
        return self.card, fold(self.text), self.kind, self.by

    def stale(self, card: Card) -> bool:
        """Tells whether a pin was made for another effect than the card has now."""
        return self.ships and fold(self.effect) != fold(card.effect)


@dataclass(frozen=True)
class Reviews:
    """All decisions, in the file's order."""

    decisions: tuple[Decision, ...] = ()

    @cached_property
    def by_card(self) -> Mapping[str, tuple[Decision, ...]]:
        """Card id -> its decisions."""
        found: dict[str, list[Decision]] = {}
        for decision in self.decisions:
            found.setdefault(decision.card, []).append(decision)
        return {card: tuple(told) for card, told in found.items()}

    def pins(self, card: Card) -> dict[int, Decision]:
        """Returns what people put into a card's slots for the effect that it has now."""
        return {d.slot: d for d in self.by_card.get(card.id, ()) if d.ships and not d.stale(card)}

    def stale(self, cards: Iterable[Card]) -> list[tuple[Decision, Card]]:
        """Returns the pins that were made for another effect, each with its card."""
        return [(d, card) for card in cards for d in self.by_card.get(card.id, ()) if d.stale(card)]

    @property
    def bans(self) -> list[Decision]:
        """The bans of all cards."""
        return [d for d in self.decisions if d.kind == BAN]

    def on(self, card: str, text: str) -> list[Decision]:
        """Returns the decisions on a text of a card."""
        folded = fold(text)
        return [d for d in self.by_card.get(card, ()) if fold(d.text) == folded]

    def state(self, card: str, text: str) -> str:
        """Returns in a word what was decided of a text: ban, edit, pin, approve, the first that holds, else nothing."""
        kinds = {d.kind for d in self.on(card, text)}
        return next((kind for kind in (BAN, EDIT, PIN, APPROVE) if kind in kinds), "")

    def accepts(self, card: str, text: str) -> bool:
        """Tells whether a person approved, pinned or worded a text, and nobody banned it."""
        return self.state(card, text) in (EDIT, PIN, APPROVE)

    def marks(self) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
        """Returns each card's texts that people accepted, and those that they banned, each sorted."""
        liked: dict[str, set[str]] = {}
        banned: dict[str, set[str]] = {}
        for d in self.decisions:
            if d.kind == BAN:
                banned.setdefault(d.card, set()).add(d.text)
            elif d.kind != RATING and self.accepts(d.card, d.text):
                liked.setdefault(d.card, set()).add(d.text)
        return _sorted(liked), _sorted(banned)


def _sorted(texts: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {card: tuple(sorted(texts[card])) for card in sorted(texts)}


# --- reading -------------------------------------------------------------------------------------


def parse_reviews(data: bytes, where: str = REVIEWS) -> tuple[Reviews, list[Problem]]:
    """Reads the decisions; those with a mistake are left out, and each mistake is a problem with its line."""
    text, problem = decode(data, where, REVIEWS_BYTES)
    if problem:
        return Reviews(), [] if problem.what == "is empty" else [problem]
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.split("\n")):
        return Reviews(), []
    from gonbuild.nodes import read_yaml  # a project without decisions loads no YAML while its cards are as they were

    root, problems = read_yaml(data, where, REVIEWS_BYTES, strict_nfc=True)
    reader = Reader(where, problems)
    nodes: Sequence[Node] = ()
    if root is not None and isinstance(root.value, list):
        nodes = root.value
    elif root is not None and root.value is not None:
        wanted = "Wanted a list, `- {card: ..., approve: ...}` a line."
        problems.append(Problem(f"{where}:{root.line}:{root.column}", "the file is no list", wanted))
    decisions = [d for node in nodes if (d := _decision(reader, node)) is not None]
    return Reviews(tuple(decisions)), in_order(problems, where)


def _decision(reader: Reader, node: "Node") -> Decision | None:
    place = f"{reader.where}:{node.line}:{node.column}"
    if node.value is None:
        return None
    if not isinstance(node.value, dict):
        reader.problems.append(Problem(place, "a decision is no mapping", f"Wanted {{card: ..., {KINDS[0]}: ...}}."))
        return None
    kinds = [kind for kind in KINDS if kind in node.value]
    if len(kinds) != 1:
        found = f"{' and '.join(kinds)} at once" if kinds else f"none of {', '.join(KINDS)}"
        close = "" if kinds else next((n for key in node.value if (n := near(key, KINDS))), "")
        reader.problems.append(Problem(place, f"a decision says {found}", f"Wanted one of them. {close}".strip()))
        return None
    kind, schema = kinds[0], _schema(kinds[0])
    before = len(reader.problems)
    values = reader.fields(node, schema, _label(node, kind))
    if loose := _loose_mark(values.get(kind, "")):
        reader.problems.append(Problem(place, f"{_label(node, kind)}: {loose}", "Type the letter again."))
    if len(reader.problems) > before or not values.keys() >= {*schema["required"]}:
        return None
    return Decision(kind=kind, text=values.pop(kind), line=node.line, **values)


def _label(node: "Node", kind: str) -> str:
    fields = node.value if isinstance(node.value, dict) else {}
    card = fields["card"][1].value if "card" in fields else None
    return f"{kind} of card '{short(card)}'" if isinstance(card, str) and card else f"a {kind}"


def _loose_mark(text: str) -> str:
    """Says where a text that is NFC still holds a mark that no letter took."""
    for at, char in enumerate(text):
        if unicodedata.combining(char):
            return f"a loose mark, U+{ord(char):04X}, stands in '{short(text[max(at - 8, 0) : at])}'"
    return ""


# --- checks against cards and settings -----------------------------------------------------------


def check_reviews(
    reviews: Reviews, cards: Sequence[Card], stories: int, max_words: int, max_sentences: int
) -> list[Problem]:
    """Returns what in the decisions cannot be honoured, each with its line; a card ships `stories` by default."""
    known = {card.id: card for card in cards}
    problems = []
    for card, decisions in reviews.by_card.items():
        if card not in known:
            close = near(card, list(known))
            wanted = (
                f"{close} Bring the card back, or `gonbuild review --forget {card}` takes its decisions out.".strip()
            )
            problems += [Problem(d.where, f"{d.kind} of card '{card}', which no deck has", wanted) for d in decisions]
            continue
        problems += _wrong_slots(decisions, known[card], known[card].stories or stories)
        problems += _contradictions(decisions)
        for d in (d for d in decisions if d.ships):
            n, m = len(words(d.text)), len(sentences(d.text))
            if n > max_words or m > max_sentences:
                what = f"{d.kind} of card '{card}' has {n} words in {_sentences(m)}"
                wanted = (
                    f"Wanted at most {max_words} in {_sentences(max_sentences)} (filters.max_words, max_sentences)."
                )
                problems.append(Problem(d.where, what, wanted))
    return sorted(problems, key=lambda p: int(p.where.rpartition(":")[2]))


def _sentences(n: int) -> str:
    return f"{n} sentence{'s' if n != 1 else ''}"


def _wrong_slots(decisions: Iterable[Decision], card: Card, stories: int) -> Iterator[Problem]:
    """Names slots that the card does not have, and those that two texts want, among pins of one and the same effect."""
    taken: dict[int, Decision] = {}
    texts: dict[str, Decision] = {}
    for d in decisions:
        if not d.ships:
            continue
        if d.slot > stories:
            wanted = f"Wanted a slot from 1 to {stories}, or a higher `stories:` of the card."
            yield Problem(d.where, f"{d.kind} of card '{d.card}' wants slot {d.slot}", wanted)
        elif d.stale(card):
            continue
        elif (other := taken.setdefault(d.slot, d)).text != d.text:
            wanted = f"Line {other.line} has it already: keep one of the two."
            yield Problem(d.where, f"two pins for slot {d.slot} of card '{d.card}'", wanted)
        elif (other := texts.setdefault(fold(d.text), d)).slot != d.slot:
            what = f"card '{d.card}': one text is pinned to slots {other.slot} and {d.slot}"
            yield Problem(d.where, what, f"See line {other.line}: keep one of the two.")


def _contradictions(decisions: Sequence[Decision]) -> Iterator[Problem]:
    """Names texts that are both banned and pinned, and two ratings of one text by one person that differ."""
    bans = {fold(d.text): d for d in decisions if d.kind == BAN}
    ratings: dict[tuple[str, str], Decision] = {}
    for d in decisions:
        if d.ships and (ban := bans.get(fold(d.text))):
            what = f"card '{d.card}': a banned story is also {'pinned' if d.kind == PIN else 'an edit'}"
            yield Problem(d.where, what, f"Line {ban.line} bans it ({short(ban.reason)}): keep one of the two.")
        if d.kind == RATING and (other := ratings.setdefault((fold(d.text), d.by), d)).scores != d.scores:
            what = f"card '{d.card}': two ratings of one story by {short(d.by)}"
            yield Problem(d.where, what, f"See line {other.line}: keep one of the two.")


def stale_notes(reviews: Reviews, cards: Iterable[Card]) -> list[str]:
    """Says of each stale pin what it was made for: it does not ship, and it is not forgotten."""
    return [
        f"{d.where}: {d.kind} of {d.card}.{d.slot} is stale and does not ship: it was made for '{d.effect}', "
        f"and the card says '{card.effect}'; pin another text, or take it back"
        for d, card in reviews.stale(cards)
    ]


def parse_scores(told: Iterable[str]) -> tuple[dict[str, int], list[Problem]]:
    """Reads marks as `sense=4`."""
    scores, problems = {}, []
    for word in told:
        name, _, value = word.partition("=")
        if name not in CRITERIA:
            problems.append(Problem("--rate", f"'{short(word)}' is no mark", f"Wanted {one_of(CRITERIA)}, as sense=4."))
        elif not re.fullmatch("[1-5]", value):
            problems.append(Problem("--rate", f"'{short(word)}' is no mark", "Wanted 1 to 5, as sense=4."))
        else:
            scores[name] = int(value)
    return scores, problems


def reviews_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of `cards/reviews.yaml`, made from the reader's own tables."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gonbuild reviews",
        "type": "array",
        "items": {"oneOf": [_schema(kind) for kind in KINDS]},
    }
