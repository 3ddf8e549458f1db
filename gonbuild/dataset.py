"""Owns which stories become training rows and in what order; trains nothing, reads no file."""

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from gonbuild.augment import KINDS, Told, vary
from gonbuild.records import Card, Row, digest
from gonbuild.settings import DatasetSettings
from gonbuild.wordings import trace

if TYPE_CHECKING:
    from gonbuild.prompts import Templates

Fits = Callable[[str, Card], bool]
FEW_ROWS = 4
"""Fewer rows than this train an adapter that knows little more than those; `plan` says so."""


@dataclass(frozen=True)
class Split:
    """The example cards, split by card."""

    training: tuple[Card, ...]
    held_out: tuple[Card, ...]
    """Measured on, never trained on and never varied."""

    def may_train(self, story: str) -> bool:
        """Tells whether a story is none of a held-out card, with its numbers and words or with others."""
        return trace(story) not in self._traces

    @cached_property
    def _traces(self) -> frozenset[str]:
        return frozenset(trace(story) for card in self.held_out for story in card.examples)


def split(cards: Iterable[Card], examples: Iterable[Card], names: Collection[str]) -> Split:
    """Says what is held out: every example card that bears one of the names, in any case and with any effect.

    What the decks hold is trained on. So a name that a deck's card bears is not held out, and neither is a story that a
    deck tells, with whatever numbers and words.
    """
    own = [(_key(card.name), story) for card in cards for story in (card.examples or ("",))]
    held = {_key(name) for name in names} - {name for name, _ in own}
    told = {trace(story) for _, story in own}
    kept, out = [], []
    for card in examples:
        if _key(card.name) not in held:
            kept.append(card)
        elif stories := tuple(story for story in card.examples if trace(story) not in told):
            out.append(replace(card, examples=stories))
    return Split(tuple(kept), tuple(out))


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


def training_rows(
    cards: Iterable[Card],
    examples: Iterable[Card],
    templates: "Templates",
    settings: DatasetSettings,
    fits: Fits = lambda _story, _card: True,
) -> list[Row]:
    """Returns the decks' own stories by card id, their varied copies, then `settings.examples` of the example cards.

    A story that does not fit its card is left out, a row that is there already too. The order depends on the rows
    alone, not on files, so that a card may move from deck to deck. Which example stories are drawn is decided story by
    story from a digest: one more example shifts one row at most.
    """
    own = [(card, story) for card in sorted(cards, key=lambda c: c.id) for story in card.examples if fits(story, card)]
    drawn = sorted(_drawn(examples, settings, fits), key=lambda pair: (pair[0].name, pair[0].effect, pair[1]))
    varied = [copy for told in own for copy in _varied(*told, settings) if fits(copy[1], copy[0])]
    prompt = lru_cache(maxsize=1)(lambda card: templates.prompt(card).text)  # one card's stories follow each other
    rows: dict[tuple[str, str], Row] = {}
    for card, story, changes in (*((*pair, ()) for pair in own), *varied, *((*pair, ()) for pair in drawn)):
        row = Row(card.id or card.name, prompt(card), templates.completion(story), changes, card.where)
        rows.setdefault((row.prompt, row.completion), row)
    return list(rows.values())


def _varied(card: Card, story: str, settings: DatasetSettings) -> Iterable[tuple[Card, str, tuple[str, ...]]]:
    """Yields `settings.variants` varied copies of a story, each with the card as varied and what was changed."""
    for number in range(settings.variants):
        rng = random.Random(digest([settings.seed, card.name, card.effect, story, number]))
        told = vary(Told(card.name, card.effect, story), rng, 0.5, KINDS)
        if told.changes:
            yield replace(card, name=told.name, effect=told.effect), told.story, told.changes


def row_counts(rows: Iterable[Row]) -> dict[str, int]:
    """Counts the rows, the varied copies among them, and these by kind of change."""
    rows = list(rows)
    kinds = Counter(kind for row in rows for kind in row.changes)
    return {"rows": len(rows), "varied": sum(bool(row.changes) for row in rows), **dict(sorted(kinds.items()))}


def row_notes(rows: Iterable[Row]) -> list[str]:
    """Says of the training rows what deserves a look: none, very few, or varied copies among them."""
    counts = row_counts(rows)
    count, varied = counts.pop("rows"), counts.pop("varied")
    if not count:
        return ["no story to train on; give cards `examples:`, or raise dataset.examples"]
    notes = []
    if count - varied < FEW_ROWS:
        stories = f"{count - varied} {'story' if count - varied == 1 else 'stories'}"
        notes.append(f"{stories} to train on: expect candidates that repeat them; give cards more `examples:`")
    if varied:
        kinds = ", ".join(f"{kind} {n}" for kind, n in counts.items())
        notes.append(f"{varied} of {count} training rows are varied copies: {kinds}")
    return notes


def _drawn(examples: Iterable[Card], settings: DatasetSettings, fits: Fits) -> Iterable[tuple[Card, str]]:
    if not settings.examples:
        return ()
    pairs = {(card.name, card.effect, story): (card, story) for card in examples for story in card.examples}
    order = sorted(pairs, key=lambda names: digest([settings.seed, *names]))
    fitting = (pairs[names] for names in order if fits(pairs[names][1], pairs[names][0]))
    return islice(fitting, settings.examples)


def row_digests(rows: Iterable[Row]) -> dict[str, str]:
    """Returns a digest of each source's rows, in their order."""
    by_source: dict[str, list[Sequence[str]]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append((row.prompt, row.completion))
    return {source: digest(told) for source, told in by_source.items()}


def chat_jsonl(cards: Iterable[Card], system: str = "") -> str:
    """Writes each story of the cards as a dialogue, one JSON object a line; the system turn is there where given."""
    lines = []
    for card in cards:
        asked = f"Tên thẻ: {card.name}\nLoại: {card.type}\nHiệu ứng: {card.effect}"
        for story in card.examples:
            turns = [("system", system)] if system else []
            turns += [("user", asked), ("assistant", story)]
            messages = [{"role": role, "content": content} for role, content in turns]
            lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return "".join(lines)
