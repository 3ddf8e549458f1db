"""Owns the values that pass between the stages, and how a value is digested; knows no file, clock or model."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

TYPES = ("Bảo Vệ", "Cộng Đồng", "Thiên Tai")
REGIONS = ("Rừng", "Sông", "Đất", "Làng")

END = "<|end|>"
"""What ends a turn of the dialogue, and so a story."""


class Progress(Protocol):
    """Told what is being done, units done and units in all while a step runs; `done == total` ends a bar.

    A training tells the mean loss of its last update too: in nats per token, or by the method's formula where it learns
    from marks.
    """

    def __call__(self, what: str, done: int, total: int, loss: float | None = None, /) -> None: ...


def quiet(what: str, done: int, total: int, loss: float | None = None, /) -> None:
    """The progress of a caller that does not care."""


def canonical(value: Any) -> str:
    """Returns the one JSON text of a value: keys sorted, no spaces, UTF-8 kept."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Returns the sha256, in hex, of a value's canonical JSON, or of bytes as they are."""
    data = value if isinstance(value, bytes) else canonical(value).encode()
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Card:
    """One card of the game as its deck defines it; text is NFC, `examples` are stories that a person wrote."""

    id: str
    name: str
    type: str
    effect: str
    deck: str = ""
    examples: tuple[str, ...] = ()
    stories: int | None = None
    """How many stories to ship; None takes `selection.stories`."""
    where: str = field(default="", compare=False)
    """`cards/bao-ve.yaml:4`, for messages alone: it moves no key."""


@dataclass(frozen=True)
class Deck:
    """One file of `cards/`: its stem names the pack file, its title the heading."""

    stem: str
    title: str
    cards: tuple[str, ...]
    """Ids, in file order."""


@dataclass(frozen=True)
class Prompt:
    """The text that a model continues: with the card, and the same without any card (for ranking)."""

    text: str
    without_card: str


@dataclass(frozen=True)
class Row:
    """One training row: the model learns `completion` after `prompt`; `source` is the card id or name it came from."""

    source: str
    prompt: str
    completion: str
    changes: tuple[str, ...] = field(default=(), repr=False)
    """How a varied copy differs from its story as written, in the kinds of augment; it moves no key."""
    where: str = field(default="", compare=False, repr=False)
    """The card's, for messages alone."""


@dataclass(frozen=True)
class Pair:
    """Two stories of one card as reviewers see them: of `chosen` a model shall write more, of `rejected` less."""

    card: str
    prompt: str
    chosen: str
    rejected: str
    where: str = field(default="", compare=False, repr=False)
    """The card's, for messages alone."""


@dataclass(frozen=True)
class Marked:
    """One story that reviewers like or have banned, as a completion of its card's prompt."""

    card: str
    prompt: str
    completion: str
    liked: bool
    where: str = field(default="", compare=False, repr=False)
    """The card's, for messages alone."""


@dataclass(frozen=True)
class Preferences:
    """What reviewers' marks teach: the same stories as pairs, and each by itself."""

    pairs: tuple[Pair, ...] = ()
    rows: tuple[Marked, ...] = ()


NO_PREFERENCES = Preferences()


@dataclass(frozen=True)
class Candidate:
    """One sampled story with its log-probabilities in nats, summed over its tokens (the end token included)."""

    card: str
    index: int
    text: str
    tokens: int
    """Generated tokens, the end token included."""
    logprob: float
    """log p(story | card), temperature 1, no truncation."""
    logprob_without_card: float | None
    """log p(story | no card), likewise; None where no weight asked for it."""
    ended: bool
    """False where the token limit cut it."""

    def score(self, card_weight: float) -> float:
        """Returns what candidates are ranked by, nats per token: the highest is the best.

        log p(story | card), which is fluency, and with a weight log p(story | card) - log p(story | no card), which is
        how much the card explains the story.
        """
        explained = self.logprob - self.logprob_without_card if self.logprob_without_card is not None else 0.0
        return (self.logprob + card_weight * explained) / max(self.tokens, 1)


@dataclass(frozen=True)
class Verdict:
    """What one filter says of one candidate; `measured` and `wanted` are for people."""

    filter: str
    kept: bool
    reason: str = ""
    measured: str = ""
    wanted: str = ""


@dataclass(frozen=True)
class Judged:
    """A candidate with the verdicts reached: all kept, or the last one a drop."""

    candidate: Candidate
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        return all(v.kept for v in self.verdicts)

    @property
    def dropped_by(self) -> Verdict | None:
        return next((v for v in self.verdicts if not v.kept), None)


@dataclass(frozen=True)
class Story:
    """One shipped story and the figures that the lock keeps of it."""

    id: str
    """Card id and slot, `bao-ve-001.1`."""
    text: str
    candidate: int | None = None
    """Index of the candidate it was; None for a text that a person pinned or worded, like the figures."""
    score: float | None = None
    """The candidate's, nats per token, 3 decimals."""
    novelty: float | None = None
    """Sentence BLEU to the nearest training story, 0-100, 1 decimal."""
    before: tuple[str, ...] = ()
    """Texts that this slot shipped before, the latest first."""

    @property
    def slot(self) -> int:
        """From 1."""
        return slot_of(self.id)


def slot_of(story: str) -> int:
    """Returns the slot in a story's id."""
    return int(story.rpartition(".")[2])


@dataclass(frozen=True)
class Request:
    """Candidates `first` to `last - 1` of one card, to be drawn by the engine."""

    card: str
    prompt: Prompt
    first: int
    last: int
