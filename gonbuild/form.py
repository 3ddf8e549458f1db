"""Owns the review form that stories.md is: what it shows of a card, and which decisions are in it when people are done.

A box in front of a story takes `x` to approve it, or `-` with a reason to ban it; one in front of a candidate takes
`x` or a slot's number to ship it. A text that was changed is an edit.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gonbuild.errors import Problem, near, one_of
from gonbuild.packs import Entry, Other, form_check, form_checks, form_entries
from gonbuild.records import Card, Story
from gonbuild.reviews import APPROVE, BAN, EDIT, PIN, Decision, Reviews
from gonbuild.sources import clean, short

MOST_PAIRS = 250_000
"""Of words that are compared with each other: texts of more are shown whole, since it takes that long."""
_NOTES = {PIN: "pinned", EDIT: "a person's wording"}


def form_card(card: Card, stories: Iterable[Story], others: Iterable[Other], reviews: Reviews) -> dict[str, Any]:
    """Returns what pack.md.jinja is told of a card: texts as they are, which the template escapes."""
    shown: list[dict[str, Any]] = []
    told = []
    for story in stories:
        state = reviews.state(card.id, story.text)
        accepted = reviews.accepts(card.id, story.text)
        shown.append(
            {
                "id": story.id,
                "text": story.text,
                "box": "x" if accepted else " ",
                "note": _NOTES.get(state, _figures(story)),
                "changes": [] if accepted or not story.before else word_diff(story.before[0], story.text),
            }
        )
        told.append(story.text)
    open_ = [o for o in others if o.text not in told and not reviews.state(card.id, o.text)]
    offered = [{"id": f"{card.id}.c{o.candidate}", "text": o.text} for o in open_]
    check = form_check((e["id"], e.get("box", ""), e["text"]) for e in (*shown, *offered))
    return {
        "id": card.id, "name": card.name, "effect": card.effect, "stories": shown, "others": offered, "check": check
    }  # fmt: skip


def _figures(story: Story) -> str:
    """Puts a story's figures as coarsely as they mean something, so that no noise moves them."""
    if story.score is None or story.novelty is None:
        return "a person's wording"
    return f"score {round(story.score, 1) + 0.0:.1f}, novelty {story.novelty:.0f}"  # what rounds to nothing has no sign


def word_diff(old: str, new: str) -> list[dict[str, str]]:
    """Returns how a text became another one, word by word: parts with `same`, or with `old` and `new`, any empty."""
    before, after = old.split(), new.split()
    parts = []
    if len(before) * len(after) > MOST_PAIRS:
        return [{"same": "", "old": " ".join(before), "new": " ".join(after)}]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        was, now = " ".join(before[a:b]), " ".join(after[c:d])
        parts.append({"same": now, "old": "", "new": ""} if kind == "equal" else {"same": "", "old": was, "new": now})
    return parts


@dataclass(frozen=True)
class Shown:
    """What stories.md was made from, of one card."""

    card: Card
    stories: Mapping[str, Story]
    """By id."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Id (`bao-ve-001.c17`) -> text."""


def form_decisions(
    text: str, cards: Mapping[str, Shown], reviews: Reviews, where: str, by: str = ""
) -> tuple[list[Decision], list[Problem]]:
    """Returns the decisions in a filled-in form that the reviews have not, and what in it cannot be understood.

    A block that is as a build wrote it decides nothing, however old it is. `where` is the form's path, for messages.
    """
    decisions: list[Decision] = []
    problems: list[Problem] = []
    checks = form_checks(text)
    entries: dict[str, list[Entry]] = {}
    for entry in form_entries(text):
        entries.setdefault(entry.id.rpartition(".")[0], []).append(entry)
    for card, told in entries.items():
        if form_check((e.id, e.box, e.text) for e in told) == checks.get(card):
            continue
        if card in cards:
            reader = _Reader(cards[card], reviews, where, by)
            decisions += reader.read(told)
            problems += reader.problems
        elif card in checks or any(e.box for e in told):
            line = max(told, key=lambda e: bool(e.box)).line  # the first that was ticked, else the first
            problems.append(Problem(f"{where}:{line}", f"unknown card '{card}'", near(card, list(cards))))
    return decisions, problems


@dataclass
class _Reader:
    """Reads the entries of one card."""

    shown: Shown
    reviews: Reviews
    where: str
    by: str
    problems: list[Problem] = field(default_factory=list)

    def read(self, entries: Sequence[Entry]) -> list[Decision]:
        decisions: list[Decision] = []
        mine = self._without_leftovers(entries)
        for entry in sorted(mine, key=lambda e: e.id not in self.shown.stories):  # candidates take what is left
            shipped = entry.id in self.shown.stories
            decisions += [*(self._story(entry) if shipped else self._candidate(entry, decisions))]
        for id_ in self.shown.stories.keys() - {entry.id for entry in entries}:
            wanted = f"Wanted `- [ ] `{id_}` ...` with a box that holds no bracket; `[- REASON]` bans a story."
            self._say(entries[0], f"no line of story {id_} can be read in its card's block", wanted)
        return decisions

    def _without_leftovers(self, entries: Sequence[Entry]) -> list[Entry]:
        """Leaves out what a merge kept of an older block beside the new one: its stories are no edits of today's.

        Where two branches changed a block, git leaves lines of both, with conflict marks or as a union.
        """
        times = Counter(entry.id for entry in entries)

        def is_left(entry: Entry) -> bool:
            story = self.shown.stories.get(entry.id)
            old = not entry.box if story is None else clean(entry.text) in story.before
            return times[entry.id] > 1 and old

        return [entry for entry in entries if not is_left(entry)]

    def _story(self, entry: Entry) -> Iterator[Decision]:
        story, found = self.shown.stories[entry.id], clean(entry.text)
        slot, text = story.slot, story.text
        state = self.reviews.state(self.shown.card.id, text)
        if entry.box.startswith("-"):
            yield from self._ban(entry, text)
        elif entry.box not in ("", "x", "X"):
            self._say(entry, f"'{short(entry.box)}' in the box of a story", "Wanted x, or - and a reason.")
        elif not found:
            self._say(entry, "a story without text", "To ban it write `[- REASON]` and leave its text.")
        elif found != text:
            if not self._decided(found, slot):
                yield self._decision(EDIT, found, slot, replaces=text)
        elif entry.box and state not in (APPROVE, PIN, EDIT):
            yield self._decision(APPROVE, text)

    def _candidate(self, entry: Entry, earlier: Sequence[Decision]) -> Iterator[Decision]:
        text, found = self.shown.others.get(entry.id, ""), clean(entry.text)
        if not entry.box:
            if text and found not in (text, ""):
                self._say(entry, "a candidate was edited and not ticked", "Write x or a slot's number into its box.")
        elif not text:
            self._say(entry, f"candidate {entry.id} is not offered any more", "`gonbuild review --pin` takes any text.")
        elif entry.box.startswith("-"):
            yield from self._ban(entry, text)
        elif (slot := self._slot(entry, found, earlier)) and not self._decided(found, slot):
            kind = PIN if found == text else EDIT
            yield self._decision(kind, found, slot, replaces="" if kind == PIN else text)

    def _slot(self, entry: Entry, found: str, earlier: Sequence[Decision]) -> int:
        """Returns the slot that a ticked candidate takes: the one in its box, else a banned one, else the last free."""
        card, slots = self.shown.card, {s.slot: s.text for s in self.shown.stories.values()}
        if entry.box in map(str, slots):  # read as a text: a number may be of any length
            return int(entry.box)
        if entry.box not in ("x", "X"):
            wanted = f"Wanted x, {one_of(map(str, slots))}, or - and a reason."
            self._say(entry, f"'{short(entry.box)}' in the box of a candidate", wanted)
            return 0
        after = Reviews((*self.reviews.decisions, *earlier))
        pins = after.pins(card)
        if own := [slot for slot, d in pins.items() if d.text == found]:
            return own[0]
        free = [n for n, text in slots.items() if n not in pins and not after.accepts(card.id, text)]
        if not free:
            self._say(entry, "each slot of the card holds what a person chose", "Write the slot's number into the box.")
            return 0
        return max([n for n in free if after.state(card.id, slots[n]) == BAN] or free)

    def _ban(self, entry: Entry, text: str) -> Iterator[Decision]:
        reason = clean(entry.box[1:])
        if not reason:
            self._say(entry, "a ban without a reason", "Write it into the box: `[- REASON]`.")
        elif self.reviews.state(self.shown.card.id, text) != BAN:
            yield self._decision(BAN, text, reason=reason)

    def _decided(self, text: str, slot: int) -> bool:
        return any(d.slot == slot and d.text == text for d in self.reviews.pins(self.shown.card).values())

    def _decision(self, kind: str, text: str, slot: int = 0, replaces: str = "", reason: str = "") -> Decision:
        effect = self.shown.card.effect if kind in (PIN, EDIT) else ""
        return Decision(self.shown.card.id, kind, text, slot, effect, replaces, reason, self.by)

    def _say(self, entry: Entry, what: str, wanted: str) -> None:
        self.problems.append(Problem(f"{self.where}:{entry.line}", what, wanted))
