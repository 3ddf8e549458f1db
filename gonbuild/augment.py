"""Owns variation of training stories: which kinds of change are made, and those of numbers and of effects.

It draws from the generator that it is given; whether a varied story still tells its effect, the caller asks.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gonbuild.clauses import add_detail, reorder
from gonbuild.records import REGIONS
from gonbuild.wordings import ACTORS, PLACES, SYNONYMS, exchange

BASE_KINDS = ("base numbers", "base words", "points", "effect", "name")
"""What the embedded base was made with; another kind, or another order, would draw other stories for its script."""

KINDS = ("numbers", "actors", "places", "synonyms", "order", "detail", "points", "effect", "name")
"""What training rows are varied by. With the base's, a person may be called by the old pronoun later on, and an effect
may count more regions than there are."""

SMALL = range(1, 7)
"""What numbers of an effect are exchanged for: the game's own."""

# One of a pair may stand for the other in any story that holds only one of them.
PAIRS = (
    ("bé Na", "bé Tí"),
    ("bà nội", "bà ngoại"),
    ("ông nội", "ông ngoại"),
    ("bà con", "dân làng"),
    ("cô giáo", "thầy giáo"),
    ("chú kiểm lâm", "bác kiểm lâm"),
    ("buổi sáng", "buổi chiều"),
    ("mỗi sáng", "mỗi chiều"),
    ("sáng sớm", "chiều muộn"),
    ("mưa to", "mưa lớn"),
    ("nhắc nhau", "bảo nhau"),
    ("xanh tốt", "xanh mướt"),
)
_REGION = "Rừng|Sông|Đất|Làng"
_EFFECT_POINTS = re.compile(rf"\b[Đđ]iểm( cho)? (?={_REGION})")
_SEPARATOR = re.compile(rf"({_REGION})[,.] \+ ?(?=\d)")
_TOO_MANY_REGIONS = re.compile(rf"\b[{len(REGIONS) + 1}-9] vùng")
_POINTS = ("điểm cho", "điểm", "Điểm cho")
_SEPARATORS = (", +", ". +", ", + ", ". + ")
_TOLD = {
    verbs: re.compile(rf"\b({_REGION}) (?:{'|'.join(verbs)})(?= \d+ điểm)")
    for verbs in (("tăng", "được cộng", "thêm"), ("bị trừ", "mất", "giảm"))
}


@dataclass(frozen=True)
class Told:
    """A card's name and effect with one story of it."""

    name: str
    effect: str
    story: str
    changes: tuple[str, ...] = ()
    """The kinds of change that made it, in order; none for a story as written."""


def vary(told: Told, rng: random.Random, chance: float, kinds: Sequence[str] = BASE_KINDS) -> Told:
    """Returns the story with each kind of change made with that chance, independently, and marked where it changed."""
    for kind in kinds:
        # Half the chance for names: cards write both "Tuần Tra Rừng" and "Cháy rừng".
        if rng.random() < (chance / 2 if kind == "name" else chance):
            changed = _CHANGES[kind](told, rng)
            if changed != told:
                told = replace(changed, changes=(*told.changes, kind))
    return told


def exchange_numbers(effect: str, story: str, rng: random.Random) -> tuple[str, str]:
    """Maps the numbers of the effect to others, in effect and story alike, different ones staying different.

    A story that does not write all of the effect's numbers in digits is left as it is.
    """
    old = sorted(set(re.findall(r"\d+", effect)))
    if not old or len(old) > 4 or not set(old) <= set(re.findall(r"\d+", story)):
        return effect, story
    new = dict(zip(old, map(str, rng.sample(SMALL, len(old))), strict=True))
    effect, story = (re.sub(r"\d+", lambda m: new.get(m[0], m[0]), text) for text in (effect, story))
    return effect, story


def exchange_words(name: str, story: str, rng: random.Random) -> str:
    """Exchanges one of `PAIRS` for its other, unless the card's name holds the one or the story both."""
    lower = story.lower()
    found = [(a, b) for pair in PAIRS for a, b in (pair, pair[::-1]) if re.search(rf"\b{a.lower()}\b", lower)]
    found = [(a, b) for a, b in found if b.lower() not in lower and a.lower() not in name.lower()]
    # "bốn bà con bà Tư" is no "bà con"
    found = [(a, b) for a, b in found if a != "bà con" or "con bà" not in lower]
    if not found:
        return story
    old, new = rng.choice(found)
    story = re.sub(rf"\b{old[0].upper()}{old[1:]}\b", new[0].upper() + new[1:], story)
    return re.sub(rf"\b{old}\b", new, story)


def retell_points(story: str, rng: random.Random) -> str:
    """Says with another verb what regions gain or lose, the same one throughout the story."""
    for verbs, told in _TOLD.items():
        verb = rng.choice(verbs)
        story = told.sub(lambda m, verb=verb: f"{m[1]} {verb}", story)  # type: ignore[misc]  # mypy sees no default
    return story


def reword_effect(effect: str, rng: random.Random) -> str:
    """Writes the effect in other ways that cards do: with "cho" or not, a full stop or not, other separators."""
    if rng.random() < 0.5:
        effect = effect.rstrip(".") + rng.choice(("", "."))
    if rng.random() < 0.5:
        points = rng.choice(_POINTS)
        effect = _EFFECT_POINTS.sub(f"{points} ", effect)
    if rng.random() < 0.5:
        separator = rng.choice(_SEPARATORS)
        effect = _SEPARATOR.sub(lambda m: m[1] + separator, effect)
    return effect


def _numbers(told: Told, rng: random.Random) -> Told:
    effect, story = exchange_numbers(told.effect, told.story, rng)
    return replace(told, effect=effect, story=story)


def _possible_numbers(told: Told, rng: random.Random) -> Told:
    changed = _numbers(told, rng)
    return told if _TOO_MANY_REGIONS.search(changed.effect) else changed


_CHANGES: dict[str, Callable[[Told, random.Random], Told]] = {
    "base numbers": _numbers,
    "numbers": _possible_numbers,
    "base words": lambda t, rng: replace(t, story=exchange_words(t.name, t.story, rng)),
    "actors": lambda t, rng: replace(t, story=exchange(t.name, t.story, ACTORS, rng, alone=True)),
    "places": lambda t, rng: replace(t, story=exchange(t.name, t.story, PLACES, rng, alone=True)),
    "synonyms": lambda t, rng: replace(t, story=exchange(t.name, t.story, SYNONYMS, rng)),
    "order": lambda t, rng: replace(t, story=reorder(t.story, rng)),
    "detail": lambda t, rng: replace(t, story=add_detail(t.story, rng)),
    "points": lambda t, rng: replace(t, story=retell_points(t.story, rng)),
    "effect": lambda t, rng: replace(t, effect=reword_effect(t.effect, rng)),
    "name": lambda t, _rng: replace(t, name=t.name.capitalize()),
}
