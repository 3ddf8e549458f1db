"""Owns which text stands in which slot of a card: pins, stories that stay, new ones; draws and judges nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from gonbuild.records import Story
from gonbuild.reviews import Decision

REMEMBERED = 3
"""Texts that a slot shipped before which are kept, so that who takes a change back gets the very pack back."""


def pinned_stories(card: str, pins: Mapping[int, Decision], known: Iterable[Story]) -> dict[int, Story]:
    """Returns the stories that people put into slots; one that ships already keeps its figures."""
    figures = {story.text: story for story in known}
    blank = Story("", "")
    return {
        slot: replace(figures.get(pin.text, blank), id=f"{card}.{slot}", text=pin.text) for slot, pin in pins.items()
    }


def fixed_stories(pinned: Mapping[int, Story], earlier: Sequence[Story], held: Collection[int]) -> dict[int, Story]:
    """Returns what stands before any candidate is chosen: the pins, and those of the held slots that no pin moved."""
    moved = {story.text for story in pinned.values()}
    return {s.slot: s for s in earlier if s.slot in held and s.text not in moved} | dict(pinned)


def placed(card: str, fixed: Mapping[int, Story], earlier: Sequence[Story], count: int) -> tuple[Story, ...]:
    """Returns a card's stories, at most `count`, with the fixed ones in their slots.

    The others stay where they are; one whose slot was taken goes where the fixed one came from, if it came from one.
    """
    told = {story.text for story in fixed.values()}
    mine = [story for story in earlier if story.slot <= count]
    stories = {s.slot: s for s in mine if s.text not in told} | dict(fixed)
    left = [s for s in mine if s.text not in {story.text for story in stories.values()}]
    vacated = [s.slot for s in mine if s.slot not in stories]
    stories |= {slot: replace(story, id=f"{card}.{slot}") for slot, story in zip(vacated, left, strict=False)}
    return with_before(stories.values(), earlier)


def in_slots(
    card: str, chosen: Iterable[Story], fixed: Mapping[int, Story], earlier: Sequence[Story]
) -> tuple[Story, ...]:
    """Numbers a card's stories: one that shipped before keeps its id, which a translation may hang on."""
    before = {story.text: story.id for story in earlier}
    chosen = list(chosen)
    free = [n for n in range(1, len(chosen) + len(fixed) + max(fixed, default=0) + 1) if n not in fixed]
    slots = [f"{card}.{n}" for n in free[: len(chosen)]]
    kept = {story.text: before[story.text] for story in chosen if before.get(story.text) in slots}
    left = iter(slot for slot in slots if slot not in kept.values())
    numbered = [replace(s, id=kept.get(s.text) or next(left)) for s in chosen]
    return with_before([*fixed.values(), *numbered], earlier)


def with_before(stories: Iterable[Story], earlier: Iterable[Story]) -> tuple[Story, ...]:
    """Sorts stories by slot and notes what each slot shipped before; one that comes back brings its own notes."""
    before = {story.id: (story.text, *story.before) for story in earlier}
    noted = []
    for story in sorted(stories, key=lambda s: s.slot):
        texts = before.get(story.id, ())
        since = texts[texts.index(story.text) + 1 :] if story.text in texts else texts[:REMEMBERED]
        noted.append(replace(story, before=since))
    return tuple(noted)
