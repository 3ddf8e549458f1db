"""Owns which stories become training rows and in what order; trains nothing, reads no file."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from gonbuild.augment import Told, vary
from gonbuild.records import Card, Row, digest
from gonbuild.settings import DatasetSettings

if TYPE_CHECKING:
    from gonbuild.prompts import Templates

Fits = Callable[[str, Card], bool]


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
    prompt = lru_cache(maxsize=1)(lambda card: templates.prompt(card).text)  # one card's stories follow each other
    rows: dict[tuple[str, str], Row] = {}
    varied = [pair for told in own for pair in _varied(*told, settings) if fits(pair[1], pair[0])]
    for card, story in (*own, *varied, *drawn):
        row = Row(card.id or card.name, prompt(card), templates.completion(story))
        rows.setdefault((row.prompt, row.completion), row)
    return list(rows.values())


def _varied(card: Card, story: str, settings: DatasetSettings) -> Iterable[tuple[Card, str]]:
    """Yields `settings.variants` varied copies of a story, each with the card as varied."""
    for number in range(settings.variants):
        rng = random.Random(digest([settings.seed, card.name, card.effect, story, number]))
        told = vary(Told(card.name, card.effect, story), rng, chance=0.5)
        yield replace(card, name=told.name, effect=told.effect), told.story


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
