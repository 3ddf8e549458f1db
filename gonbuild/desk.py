"""Owns what reviewers work at: each card's stories and candidates with what was decided, and taking decisions down.

The terminal, the page and the flags of `gonbuild review` all go through here; it prints nothing and builds nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from gonbuild.decisions import add_decision, remove_decisions
from gonbuild.disk import write_aside
from gonbuild.errors import InputError, Problem, near
from gonbuild.pipeline import CANDIDATES, Project
from gonbuild.records import Card, Story
from gonbuild.report import Seen, seen_by_card
from gonbuild.reviews import APPROVE, BAN, EDIT, PIN, RATING, REVIEWS, Decision, Reviews, parse_reviews
from gonbuild.workspace import Workspace

LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Told:
    """A story that ships, with what was decided of it."""

    story: Story
    state: str
    """ban, edit, pin, approve, or nothing while nobody decided"""
    decisions: tuple[Decision, ...]
    """All on this text, ratings too."""
    next_text: str = ""
    """What the next build puts into the slot instead, where a person said so."""


@dataclass(frozen=True)
class Unshipped:
    """A candidate that does not ship."""

    index: int
    text: str
    state: str
    score: float | None = None
    """Nats per token."""
    filter: str = ""
    """What dropped it; empty where it passed."""
    reason: str = ""


@dataclass(frozen=True)
class Sheet:
    """One card as a reviewer sees it."""

    card: Card
    deck: str
    """The deck's title."""
    stories: tuple[Told, ...]
    """By slot."""
    candidates: tuple[Unshipped, ...]
    """The best first, those that were dropped after those that passed."""
    stale: tuple[Decision, ...]
    """Pins that were made for another effect."""
    slots: int
    """How many stories the card wants."""

    @property
    def done(self) -> bool:
        """Whether every slot holds a story that a person accepted."""
        return len(self.stories) == self.slots and all(t.state in (APPROVE, PIN, EDIT) for t in self.stories)


class Desk:
    """Decisions on a project's stories; two desks at a time, in any processes, lose nothing."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def sheets(self) -> tuple[Sheet, ...]:
        """Returns every card as it stands now, in deck order.

        Raises:
            InputError: cards, reviews or lock are wrong.
        """
        return self._sheets(lambda _card: True)

    def sheet(self, card: str) -> Sheet:
        """Returns one card as it stands now.

        Raises:
            InputError: as `sheets`, or no deck has the card.
        """
        found = self._sheets(lambda c: c.id == card)
        if not found:
            known = [c.id for c in self.project.workspace().scan.cards]
            raise InputError(Problem("", f"unknown card '{card}'", near(card, known)))
        return found[0]

    def _sheets(self, wanted: Callable[[Card], bool]) -> tuple[Sheet, ...]:
        ws = self.project.workspace()
        decks = {card: deck.title for deck in ws.scan.decks for card in deck.cards}
        seen = seen_by_card(ws.read(CANDIDATES))
        return tuple(_sheet(ws, c, decks[c.id], seen.get(c.id, ())) for c in ws.scan.cards if wanted(c))

    def find(self, name: str) -> tuple[Sheet, str, int]:
        """Returns the card's sheet, the text and the slot of a story, `bao-ve-001.2`, or a candidate, `bao-ve-001.c17`.

        The slot of a candidate is 0.

        Raises:
            InputError: as `sheets`, or there is no such story or candidate.
        """
        card, _, rest = name.rpartition(".")
        sheet = self.sheet(card or name)
        stories = {str(t.story.slot): (t.story.text, t.story.slot) for t in sheet.stories}
        found = stories | {f"c{c.index}": (c.text, 0) for c in sheet.candidates}
        if rest not in found:
            ids = ", ".join(t.story.id for t in sheet.stories) or "none"
            raise InputError(Problem("", f"no story '{name}'", f"Card '{sheet.card.id}' ships {ids}."))
        return sheet, *found[rest]

    @staticmethod
    def approval(card: str, text: str, by: str = "") -> Decision:
        """Returns the decision that a text may ship."""
        return Decision(card, APPROVE, text, by=by)

    def approve(self, card: str, text: str, by: str = "") -> list[Decision]:
        """Notes that a text may ship; returns the decisions that gave way, as the others below do.

        Raises:
            InputError: as `decide`.
        """
        return self.decide(self.approval(card, text, by))

    def ban(self, card: str, text: str, reason: str, by: str = "") -> list[Decision]:
        """Notes that neither a text nor a near copy of it may ship."""
        return self.decide(Decision(card, BAN, text, reason=reason, by=by))

    def pin(self, card: str, slot: int, text: str, by: str = "") -> list[Decision]:
        """Puts a text into a slot, for as long as the card has the effect that it has now."""
        effect = self.sheet(card).card.effect
        return self.decide(Decision(card, PIN, text, slot=slot, effect=effect, by=by))

    def edit(self, card: str, slot: int, text: str, replaces: str, by: str = "") -> list[Decision]:
        """Puts a person's wording into a slot, in place of a text."""
        effect = self.sheet(card).card.effect
        return self.decide(Decision(card, EDIT, text, slot=slot, effect=effect, replaces=replaces, by=by))

    def rate(self, card: str, text: str, by: str, scores: dict[str, int]) -> list[Decision]:
        """Takes a reviewer's marks of a text down, over those that were given before."""
        mine = (d for d in self.reviews().on(card, text) if d.kind == RATING and d.by == by)
        before = next((dict(d.scores) for d in mine), {})
        return self.decide(Decision(card, RATING, text, by=by, scores=before | scores))

    def read_form(self, data: bytes, where: str, by: str = "") -> tuple[list[Decision], list[Decision]]:
        """Takes down the decisions in a filled-in stories.md, all or none; returns them, and those that gave way.

        Raises:
            InputError: as `decide`, or something in the form cannot be understood; all of it is named.
        """
        decisions, problems = self.project.workspace().decisions_in(data.decode("utf-8", "replace"), where, by)
        if problems:
            raise InputError(problems)
        return decisions, self.decide(*decisions)

    def reviews(self) -> Reviews:
        """Returns the decisions as the file has them now."""
        return self.project.workspace().reviews

    def decide(self, *decisions: Decision) -> list[Decision]:
        """Writes decisions into the file, all or none; returns those that gave way.

        Raises:
            InputError: a decision cannot be honoured (a slot that the card has not, a text that is too long), or the
                file has mistakes; it is then as before.
            MachineError: the file cannot be written.
        """

        def change(data: bytes) -> tuple[bytes, list[Decision]]:
            gone = []
            for decision in decisions:
                data, taken = add_decision(data, decision)
                gone += taken
            return data, [d for d in gone if d not in decisions]

        return self._change(change)

    def take_back(self, gone: Callable[[Decision], bool]) -> list[Decision]:
        """Takes decisions out of the file; returns them."""
        return self._change(lambda data: remove_decisions(data, gone))

    def _change(self, change: Callable[[bytes], tuple[bytes, list[Decision]]]) -> list[Decision]:
        project = self.project
        path = project.root / REVIEWS
        with project.store.lock(LOCK_TIMEOUT_S, "reviews.lock", "another review"):
            ws = project.workspace()
            before = ws.review_bytes
            after, gone = change(before)
            wrong = {(p.what, p.wanted) for p in ws.review_problems(parse_reviews(before)[0])}
            new = [p for p in ws.review_problems(parse_reviews(after)[0]) if (p.what, p.wanted) not in wrong]
            if new:
                raise InputError(replace(p, where="") for p in new)
            if after != before:
                write_aside(path, after)
        return gone


def _sheet(ws: Workspace, card: Card, deck: str, seen: Iterable[Seen]) -> Sheet:
    stories = ws.stories(card.id)
    pins = ws.reviews.pins(card)
    shipped = {story.text for story in stories}
    told = tuple(
        Told(
            story,
            ws.reviews.state(card.id, story.text),
            tuple(ws.reviews.on(card.id, story.text)),
            pins[story.slot].text if story.slot in pins and pins[story.slot].text != story.text else "",
        )
        for story in stories
    )
    return Sheet(
        card,
        deck,
        told,
        tuple(c for c in _candidates(ws, card.id, seen) if c.text not in shipped),
        tuple(d for d, _ in ws.reviews.stale([card])),
        card.stories or ws.settings.selection.stories,
    )


def _candidates(ws: Workspace, card: str, seen: Iterable[Seen]) -> list[Unshipped]:
    """Returns what the lock and this machine know of a card's candidates, each text once."""
    line = ws.lock.lines.get(card)
    found: dict[str, Unshipped] = {}
    for s in seen:
        found.setdefault(s.text, Unshipped(s.index, s.text, "", s.score, s.filter, s.reason))
    for other in line.others if line else ():
        found[other.text] = replace(found.get(other.text, Unshipped(0, other.text, "")), index=other.candidate)
    best = {other.text: at for at, other in enumerate(line.others if line else ())}
    ordered = sorted(
        found.values(),
        key=lambda c: (c.filter != "", best.get(c.text, len(best)), -(c.score or 0.0), c.index),
    )
    return [replace(c, state=ws.reviews.state(card, c.text)) for c in ordered]
