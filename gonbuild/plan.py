"""Decides what a build does and says why, both in one place; runs nothing and reads no file."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gonbuild.packs import Line, Lock
from gonbuild.records import canonical
from gonbuild.sources import short

KEEP, RELOCK, PLACE, SELECT, GENERATE, REMOVE = "keep", "relock", "place", "select", "generate", "remove"
REUSE, TRAIN, IDLE, WRITE = "reuse", "train", "not needed", "write"


@dataclass(frozen=True)
class Step:
    """One thing that the build keeps or makes, with a sentence for each reason."""

    what: str
    """`adapter`, a card id, or `packs`"""
    action: str
    reasons: tuple[str, ...] = ()
    adapter: str = ""
    """Key of the adapter whose candidates a `select` or `generate` draws on."""
    first_round: int = 0
    """The first round of candidates to look at: a refreshed card passes over those that it had."""
    held: tuple[int, ...] = ()
    """Slots of a card that is made anew whose stories stay."""

    @property
    def changes(self) -> bool:
        return self.action not in (KEEP, REUSE, IDLE)


@dataclass(frozen=True)
class Plan:
    """The steps of a build: adapter, cards in deck order, removed cards, packs."""

    adapter: Step
    cards: tuple[Step, ...]
    packs: Step
    notes: tuple[str, ...] = ()
    """What deserves a look though it changes nothing."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Kept cards that ship fewer stories than they want, with the reason the lock gives."""
    pending: tuple[str, ...] = ()
    """Decisions that stand in a pack and not in the reviews: a build would overwrite them."""

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.adapter, *self.cards, self.packs)

    @property
    def changes(self) -> bool:
        """Whether a build would write any pack or lock."""
        return self.packs.changes or any(step.changes for step in self.cards)


@dataclass(frozen=True)
class Pinned:
    """A text that a person put into a slot."""

    text: str
    how: str
    """`pinned` or `edited`"""


@dataclass(frozen=True)
class Situation:
    """All that a plan depends on: what is wanted, what the lock says, and what the store holds."""

    wanted: Mapping[str, Mapping[str, Any]]
    """Card id -> inputs of its stories, in deck order."""
    settings: Mapping[str, Mapping[str, Any]]
    """Digest -> stage settings, of the wanted inputs."""
    rounds: int
    candidates: int
    """Per round."""
    lock: Lock
    adapter: str
    """Key of the adapter that the project's rows and settings ask for."""
    adapter_reasons: tuple[str, ...]
    """Why that adapter is another one than the last; empty where it is in the store."""
    has_adapter: Callable[[str], bool]
    """Whether the store holds an adapter, and it was made for today's base."""
    has_candidates: Callable[[str, str, int], bool]
    """(adapter key, card id, round) -> whether they are in the store."""
    still_passes: Callable[[str], bool]
    """Whether a card's shipped stories pass today's filters; asked only when filters changed."""
    pack_reasons: Callable[[], tuple[str, ...]]
    """Why the pack files differ from what lock, cards and templates give; asked only when no card changes."""
    refresh: frozenset[str] = frozenset()
    remote: str = ""
    """URL of the store that machines share; a plan asks it nothing."""
    row_notes: tuple[str, ...] = ()
    """What to say of the training rows where an adapter is trained on them."""
    pins: Mapping[str, Mapping[int, Pinned]] = field(default_factory=dict)
    """Card id -> slot -> what a person put there."""
    accepted: Callable[[Line], Collection[int]] = lambda _line: ()
    """Slots of a line whose stories people accepted."""
    refused: Callable[[Line], Mapping[int, str]] = lambda _line: {}
    """Slots of a line whose stories may not stay -> why: `is banned: ...`, `is dropped by effect: ...`."""
    pending: tuple[str, ...] = ()
    """Decisions that stand in a pack and not in the reviews."""


def make_plan(s: Situation, notes: Iterable[str] = ()) -> Plan:
    """Decides every step and gives its reasons; `notes` go before those of its own."""
    cards = [_card_step(card, s) for card in s.wanted]
    cards += [Step(card, REMOVE, ("no deck has this card any more",)) for card in s.lock.lines if card not in s.wanted]
    changed = sum(step.changes for step in cards)
    if changed:
        packs = Step("packs", WRITE, (f"{changed} card{'s' if changed > 1 else ''} changed",))
    else:
        reasons = s.pack_reasons()
        packs = Step("packs", WRITE if reasons else KEEP, reasons)
    kept = [s.lock.lines[step.what] for step in cards if step.action in (KEEP, RELOCK)]
    short = {line.card: line.short for line in kept if line.short}
    adapter = _adapter_step(cards, s)
    rows = s.row_notes if adapter.action == TRAIN else ()
    return Plan(adapter, tuple(cards), packs, (*notes, *rows, *_notes(kept, s)), short, s.pending)


def _adapter_step(cards: Iterable[Step], s: Situation) -> Step:
    if s.has_adapter(s.adapter):
        return Step("adapter", REUSE, (), s.adapter)
    if all(step.action != GENERATE for step in cards):
        return Step("adapter", IDLE, s.adapter_reasons, s.adapter)
    fetched = (f"fetched instead if {s.remote} has it",) if s.remote else ()
    return Step("adapter", TRAIN, (*s.adapter_reasons, *fetched), s.adapter)


def _notes(kept: Iterable[Line], s: Situation) -> tuple[str, ...]:
    others: dict[str, int] = {}
    for line in kept:
        if line.adapter != s.adapter:
            others[line.adapter] = others.get(line.adapter, 0) + 1
    return tuple(
        f"{count} card{'s' if count > 1 else ''} kept, made with adapter {key[:4]}, current {s.adapter[:4]}"
        for key, count in sorted(others.items())
    )


def _card_step(card: str, s: Situation) -> Step:
    line = s.lock.lines.get(card)
    if line is None:
        return _made(card, ("new card",), [s.adapter], s)
    if card in s.refresh:
        seen = [story.candidate for story in line.stories if story.candidate is not None and line.adapter == s.adapter]
        first = 1 + max(seen) // s.candidates if seen else 0
        return _made(card, ("refresh asked for",), [s.adapter], s, first_round=first)
    pins = s.pins.get(card, {})
    changes = _differences(line, s.wanted[card], s)
    refused = {slot: why for slot, why in s.refused(line).items() if slot not in pins}
    if not refused and (wording := _standing(line, changes, s)) is not None:
        if unplaced := _unplaced(line, pins):
            return Step(card, PLACE, (*changes.reasons, *wording, *unplaced), line.adapter)
        return Step(card, RELOCK, (*changes.reasons, *wording)) if changes.reasons else Step(card, KEEP)
    reasons = (*changes.reasons, *(f"{card}.{slot} {why}" for slot, why in refused.items()))
    held = s.accepted(line) if changes.reasons else [story.slot for story in line.stories]
    return _made(
        card,
        (*reasons, *_unplaced(line, pins)),
        [*([line.adapter] if s.has_adapter(line.adapter) else []), s.adapter],
        s,
        held=[n for n in held if changes.card_same and n <= s.wanted[card]["stories"] and n not in {*refused, *pins}],
    )


def _standing(line: Line, changes: "_Changes", s: Situation) -> tuple[str, ...] | None:
    """Says why a card's stories may stay although something changed, in no words where nothing did; None: they go."""
    if not changes.reasons:
        return ()
    if line.short or not changes.count_same:
        return None
    accepted = {*s.accepted(line), *s.pins.get(line.card, {})}
    if changes.card_same and line.stories and all(story.slot in accepted for story in line.stories):
        return ("its stories are approved",)
    if changes.filters_alone and s.still_passes(line.card):
        return ("its stories still pass",)
    return None


def _unplaced(line: Line, pins: Mapping[int, Pinned]) -> tuple[str, ...]:
    """Names the slots that do not hold what a person put there."""
    if not pins:  # most cards of most projects
        return ()
    found = {story.slot: story.text for story in line.stories}
    unplaced = ((slot, pin.how) for slot, pin in sorted(pins.items()) if found.get(slot) != pin.text)
    return tuple(f"{line.card}.{slot} {how}" for slot, how in unplaced)


def _made(
    card: str,
    reasons: tuple[str, ...],
    adapters: list[str],
    s: Situation,
    *,
    first_round: int = 0,
    held: Iterable[int] = (),
) -> Step:
    slots = tuple(sorted(held))
    if len({*slots, *s.pins.get(card, {})}) >= s.wanted[card]["stories"]:
        return Step(card, PLACE, reasons, adapters[0], first_round, slots)
    for adapter in adapters:
        if s.has_candidates(adapter, card, first_round):
            return Step(card, SELECT, reasons, adapter, first_round, slots)
    return Step(card, GENERATE, reasons, s.adapter, first_round, slots)


@dataclass(frozen=True)
class _Changes:
    """How a line differs from what is wanted."""

    reasons: tuple[str, ...] = ()
    card_same: bool = True
    """The card has the name, type and effect that it had."""
    count_same: bool = True
    """It wants as many stories as it did."""
    filters_alone: bool = True
    """Filters alone changed."""


def _differences(line: Line, wanted: Mapping[str, Any], s: Situation) -> _Changes:
    """Compares a line with what is wanted."""
    if line.inputs == wanted and not line.short:  # most lines of most plans
        return _Changes()
    old, new = dict(line.inputs), dict(wanted)
    old_key, new_key = old.pop("settings", ""), new.pop("settings", "")
    reasons = diff({k: v for k, v in old.items() if k != "prompt"}, {k: v for k, v in new.items() if k != "prompt"})
    count_same = old.get("stories") == new.get("stories")
    card_same = len(reasons) == (not count_same)
    if not reasons and old.get("prompt") != new.get("prompt"):
        reasons.append("prompt: changed by a template")
    filters_alone = not reasons
    if old_key != new_key:
        before = s.lock.settings.get(old_key)
        after = s.settings[new_key]
        reasons += diff(before, after) if before is not None else ["settings: the lock does not hold the earlier ones"]
        others = [{k: v for k, v in (stages or {}).items() if k != "filters"} for stages in (before, after)]
        filters_alone = filters_alone and others[0] == others[1]
    if line.short and line.rounds != s.rounds:
        reasons.append(f"selection.rounds: {line.rounds} -> {s.rounds}")
    return _Changes(tuple(reasons), card_same, count_same, filters_alone)


def diff(old: Mapping[str, Any], new: Mapping[str, Any], name: str = "") -> list[str]:
    """Puts the differences of two nested mappings into words, `name: old -> new` each, sorted by name."""
    reasons = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        full = f"{name}.{key}" if name else key
        if key == "rows" and isinstance(before, Mapping) and isinstance(after, Mapping):
            reasons += _card_diff("training stories", before, after)
        elif key == "preferences":
            reasons += _card_diff("reviewers' marks", before or {}, after or {})
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            reasons += diff(before, after, full)
        elif isinstance(before, list) and isinstance(after, list) and before != after:
            reasons.append(f"{full}: {_list_diff(before, after)}")
        elif before != after:
            reasons.append(f"{full}: {_word(before)} -> {_word(after)}")
    return reasons


def _list_diff(old: list[Any], new: list[Any]) -> str:
    """Names what came and went, three of each at most: a list may be long."""
    told = []
    for sign, items in (("+", [x for x in new if x not in old]), ("-", [x for x in old if x not in new])):
        told += [f"{sign}{_word(item)}" for item in items[:3]]
        told += [f"{sign}{len(items) - 3} more"] if len(items) > 3 else []
    return " ".join(told) or "another order"


def _card_diff(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names the cards of which something that is learned changed, three at most."""
    changes = {
        "changed": sorted(k for k in old.keys() & new.keys() if old[k] != new[k]),
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
    }
    return [
        f"{what} {how}: {', '.join(cards[:3])}{f' and {len(cards) - 3} more' if len(cards) > 3 else ''}"
        for how, cards in changes.items()
        if cards
    ]


def _word(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return value[:8]
    return "nothing" if value is None else short(canonical(value), 120)
