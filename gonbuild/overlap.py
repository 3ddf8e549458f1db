"""Owns how two stories are laid beside each other so that what they share is seen; knows no pack and no page."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from gonbuild.filters import without_effect
from gonbuild.language import fold_word, words

SAME, RULE, OWN = "same", "rule", "own"


@dataclass(frozen=True)
class Part:
    """A run of a story's words with one mark."""

    text: str
    mark: str
    """`same`: the other story has the word; `rule`: a word of the effect, left out of comparisons; `own`: neither."""


@dataclass(frozen=True)
class Beside:
    """Two stories with what they share; words of the effects are not counted."""

    story: tuple[Part, ...]
    other: tuple[Part, ...]
    shared: int
    """Words of the story that the other has too, each as often as it has it."""
    words: int
    """Of the story."""


def beside(story: str, effect: str, other: str, other_effect: str) -> Beside:
    """Lays a story beside another; BLEU leaves out the words of each one's own effect, and so does this."""
    mine, theirs = (without_effect(*told).split() for told in ((story, effect), (other, other_effect)))
    counts, others = (Counter(map(fold_word, told)) for told in (mine, theirs))
    return Beside(
        tuple(_parts(story, effect, others)),
        tuple(_parts(other, other_effect, counts)),
        (counts & others).total(),
        len(mine),
    )


def _parts(text: str, effect: str, other: Counter[str]) -> Iterable[Part]:
    marked = [(_mark(piece, effect, other), piece) for piece in text.split()]
    for mark, run in groupby(marked, key=lambda pair: pair[0]):
        yield Part(" ".join(piece for _, piece in run), mark)


def _mark(piece: str, effect: str, other: Counter[str]) -> str:
    if not words(piece):
        return OWN
    compared = without_effect(piece, effect)
    if not compared:
        return RULE
    return SAME if fold_word(compared) in other else OWN
