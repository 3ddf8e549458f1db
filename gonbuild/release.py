"""Owns what a pack must hold before it is released, beyond being up to date; makes no story and mends none."""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gonbuild.copies import PACK, near_pairs
from gonbuild.errors import Problem
from gonbuild.filters import FILTERS, Context, StoryIndex, shipped
from gonbuild.glyphs import font_characters, missing_glyphs
from gonbuild.language import fold, words
from gonbuild.making import context, refused_slots
from gonbuild.records import Card, Story
from gonbuild.reviews import Decision, Reviews
from gonbuild.settings import Settings
from gonbuild.sources import fault, short
from gonbuild.workspace import Workspace

_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
"""Unicode categories of what no reader sees, or sees as nothing that was meant."""


@dataclass(frozen=True)
class Release:
    """What would be released: every card with the stories that ship, and what they are held against."""

    cards: Sequence[Card]
    """In deck order."""
    stories: Mapping[str, Sequence[Story]]
    """Card id -> what ships, by slot."""
    reviews: Reviews
    settings: Settings
    refused: Mapping[str, Mapping[str, str]]
    """Card id -> slot -> why the story there may not ship: `is banned: ...`."""
    font: frozenset[int] | None = None
    """Code points that the game's font can draw; None where no font is named."""

    @cached_property
    def told(self) -> list[tuple[Card, Story]]:
        """Every story that ships, with its card."""
        return [(card, story) for card in self.cards for story in self.stories.get(card.id, ())]

    def pin(self, card: Card, story: Story) -> Decision | None:
        """Returns the pin or edit that put a story into its slot, if a person did."""
        pin = self.reviews.pins(card).get(story.slot)
        return pin if pin and pin.text == story.text else None

    def where(self, card: Card, story: Story) -> str:
        """Returns where a story's text can be mended: the line of its pin, else the pack."""
        pin = self.pin(card, story)
        return pin.where if pin else PACK


def check_release(ws: Workspace) -> tuple[list[Problem], list[str]]:
    """Returns everything that stands against a release, and notes that do not; needs no model and no network.

    The lock is taken at its word: whether packs are up to date is the plan's to say.

    Raises:
        InputError: cards, reviews or lock are wrong.
    """
    settings = ws.settings.release
    font, problem = font_characters(ws.root, settings.font) if settings.font else (None, None)
    stories = {card.id: ws.stories(card.id) for card in ws.scan.cards}
    release = Release(ws.scan.cards, stories, ws.reviews, ws.settings, refused_slots(ws), None if problem else font)
    problems = [problem] if problem else []
    # Reading the training stories takes two seconds, and only people's own texts are asked about them here.
    notes = release_notes(release, context(ws, {})) if any(release.pin(*told) for told in release.told) else []
    return problems + release_problems(release), notes


def release_problems(release: Release) -> list[Problem]:
    """Returns what stands against a release, rule by rule, each with where, what and wanted."""
    return [problem for rule in RULES for problem in rule(release)]


def release_notes(release: Release, ctx: Context) -> list[str]:
    """Says which texts that people pinned or worded break a filter: they ship all the same."""
    notes, own = [], StoryIndex()
    limit = release.settings.filters.max_diversity_bleu
    for card, story in release.told:
        if not (pin := release.pin(card, story)):
            continue
        verdicts = [check(shipped(card, story), card, ctx) for check in FILTERS]
        said = [f"{v.filter}: {v.reason}" for v in verdicts if not v.kept]
        near = own.over(story.text, card.effect, limit)
        said += [f"diversity: too near to another pin (BLEU {score:.1f}): {own.texts[at]}" for score, at in near]
        own.add(story.text, card.effect)
        notes += [f"{pin.where}: {pin.kind} of {story.id} ships as a person wanted it, though {why}" for why in said]
    return notes


def characters(text: str) -> int:
    """Counts a text as a reader does: code points of its NFC form, marks that no letter took aside.

    For Vietnamese these are the grapheme clusters: NFC has a code point for each of its letters.
    """
    return sum(not unicodedata.combining(c) for c in unicodedata.normalize("NFC", text))


def _accepted(release: Release) -> Iterator[Problem]:
    """Names cards with too few stories, and those of which people accepted too few."""
    for card in release.cards:
        stories, place = release.stories.get(card.id, ()), card.where or "cards"
        count = card.stories or release.settings.selection.stories
        if len(stories) < count:
            what = f"card '{card.id}' ships {len(stories)} of {count} stories"
            yield Problem(place, what, f"`gonbuild why {card.id}` tells what dropped the others.")
        open_ = [s.id for s in stories if not release.reviews.accepts(card.id, s.text)]
        accepted, approved = len(stories) - len(open_), release.settings.release.approved
        wanted = count if approved is None else min(approved, count)
        if accepted < wanted and open_:
            what = f"card '{card.id}': people accepted {accepted} of the {wanted} stories that a release wants"
            yield Problem(place, what, f"`gonbuild review` asks about {', '.join(open_)}.")


def _stale(release: Release) -> Iterator[Problem]:
    for pin, card in release.reviews.stale(release.cards):
        what = f"{pin.kind} of {card.id}.{pin.slot} is stale: it was made for '{short(pin.effect)}'"
        yield Problem(pin.where, what, f"The card says '{card.effect}': pin another text, or take it back.")


def _refused(release: Release) -> Iterator[Problem]:
    for card, story in release.told:
        if why := release.refused.get(card.id, {}).get(str(story.slot)):
            what = f"story '{story.id}' ships and {why}"
            yield Problem(release.where(card, story), what, "`gonbuild stories` puts another in its place.")


def _alike(release: Release) -> Iterator[Problem]:
    """Names each two stories that are near-duplicates, but for two that people pinned."""
    pinned = {story.id for card, story in release.told if release.pin(card, story)}
    for first, second, problem in near_pairs(release.told, release.settings.filters.max_diversity_bleu):
        if not {first, second} <= pinned:
            yield problem


def _openings(release: Release) -> Iterator[Problem]:
    settings, found = release.settings.release, dict[str, list[str]]()
    for _, story in release.told:
        opening = " ".join(map(fold, words(story.text)[: settings.opening_words]))
        found.setdefault(opening, []).append(story.id)
    for opening, ids in found.items():
        if settings.max_openings and len(ids) > settings.max_openings:
            what = f"{len(ids)} stories open with '{opening}': {', '.join(ids)}"
            wanted = (
                f"Wanted at most {settings.max_openings} (release.max_openings): edit some, or refresh their cards."
            )
            yield Problem(PACK, what, wanted)


def _texts(release: Release) -> Iterator[Problem]:
    """Names what in single texts the game could not show, or not as it was meant."""
    limit, font = release.settings.release.max_characters, release.settings.release.font
    for card, story in release.told:
        where, name = release.where(card, story), f"story '{story.id}'"
        if (count := characters(story.text)) > limit:
            wanted = f"Wanted at most {limit} (release.max_characters): edit it, or lower filters.max_words."
            yield Problem(where, f"{name} has {count} characters", wanted)
        if not unicodedata.is_normalized("NFC", story.text):
            yield Problem(where, f"{name} is not in NFC: letters and marks stand apart", "Type the letters again.")
        if unseen := _unseen(story.text):
            yield Problem(where, f"{name} holds {unseen}", "Take it out of the text.")
        if release.font is not None and (lacking := missing_glyphs(story.text, release.font)):
            yield Problem(where, f"{name}: {font} has no glyph for {lacking}", "Wanted another font, or other words.")


def _unseen(text: str) -> str:
    """Names control, bidirectional, zero-width and other unseen characters, each once, in code point order."""
    found = sorted({c for c in text if unicodedata.category(c) in _UNSEEN or fault(c)})
    return ", ".join(f"U+{ord(c):04X} {unicodedata.name(c, 'unnamed character')}" for c in found)


RULES: tuple[Callable[[Release], Iterator[Problem]], ...] = (_accepted, _stale, _refused, _alike, _openings, _texts)
