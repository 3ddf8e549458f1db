"""Owns what reviewers' marks teach: pairs and single stories in trl's formats; trains nothing, reads no file.

A story that a reviewer pinned, edited or approved is liked, one that was banned is not. Both are told with the
templates of the training rows, so that a model sees the texts that it writes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gonbuild.errors import InputError, Problem
from gonbuild.records import Card, Marked, Pair, Preferences, Row, digest

if TYPE_CHECKING:
    from gonbuild.prompts import Templates

Marks = Mapping[str, Sequence[str]]
"""Card id -> texts of its stories that bear a mark."""


def read_marks(cards: Iterable[Card], templates: "Templates", liked: Marks, banned: Marks) -> Preferences:
    """Returns what the marks of these cards teach, by card id and text; marks of other cards teach nothing.

    Each liked story of a card is paired with each banned one of the same card. A text that is both counts as banned.
    """
    pairs: list[Pair] = []
    rows: list[Marked] = []
    for card in sorted(cards, key=lambda c: c.id):
        bad = sorted({*banned.get(card.id, ())})
        good = sorted({*liked.get(card.id, ())} - {*bad})
        if not good and not bad:
            continue
        prompt = templates.prompt(card).text
        good, bad = [templates.completion(text) for text in good], [templates.completion(text) for text in bad]
        pairs += [Pair(card.id, prompt, chosen, rejected, card.where) for chosen in good for rejected in bad]
        marked = partial(Marked, card.id, prompt, where=card.where)
        rows += [marked(text, True) for text in good] + [marked(text, False) for text in bad]
    return Preferences(tuple(pairs), tuple(rows))


def marked_rows(preferences: Preferences) -> list[Row]:
    """Returns each marked story as a training row, to be counted in tokens; those of the pairs are among them."""
    return [Row(r.card, r.prompt, r.completion, where=r.where) for r in preferences.rows]


def dpo_jsonl(pairs: Iterable[Pair]) -> str:
    """Writes pairs as trl's DPOTrainer reads them, in its standard format with an explicit prompt, one a line."""
    return _jsonl({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs)


def kto_jsonl(rows: Iterable[Marked]) -> str:
    """Writes single stories as trl's KTOTrainer reads them; the label is true of a liked one."""
    return _jsonl({"prompt": r.prompt, "completion": r.completion, "label": r.liked} for r in rows)


def _jsonl(rows: Iterable[Mapping[str, str | bool]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def preference_digests(preferences: Preferences, method: str) -> dict[str, str]:
    """Returns a digest of what each card's marks teach by a method, card id -> digest; none of a card that adds none.

    For `dpo` these are the pairs alone: a ban without a liked story beside it moves no key there.
    """
    by_card: dict[str, list[Sequence[str | bool]]] = {}
    if method == "dpo":
        for p in preferences.pairs:
            by_card.setdefault(p.card, []).append((p.prompt, p.chosen, p.rejected))
    else:
        for r in preferences.rows:
            by_card.setdefault(r.card, []).append((r.prompt, r.completion, r.liked))
    return {card: digest(told) for card, told in by_card.items()}


def require_marks(preferences: Preferences, method: str) -> None:
    """Sees that there is something that a method can learn from.

    Raises:
        InputError: `dpo` without a pair, or `kto` without marks of both kinds; it says which marks are wanted. trl
            would take bans alone, but of what an adapter drew that learned from 30 of them, 1 story in 100 ended.
    """
    if method == "dpo" and not preferences.pairs:
        what = 'adapter.method is "dpo", and no card has both a story that reviewers like and one that they banned'
        wanted = "Approve or pin a story and ban another of the same card: `gonbuild review`."
        raise InputError(Problem("pyproject.toml", what, wanted))
    if method == "kto" and len({row.liked for row in preferences.rows}) < 2:
        what = 'adapter.method is "kto", and there are not both stories that reviewers like and some that they banned'
        raise InputError(Problem("pyproject.toml", what, "Approve or pin stories and ban others: `gonbuild review`."))


def balance(rows: Sequence[Marked]) -> tuple[float, float]:
    """Returns the weights of liked and banned stories in KTO's loss, with which both sides weigh the same.

    The fewer ones weigh more, the others 1; see Eq. (8) of https://huggingface.co/papers/2402.01306.
    """
    liked = sum(row.liked for row in rows)
    banned = len(rows) - liked
    if not liked or not banned:
        return 1.0, 1.0
    return max(1.0, banned / liked), max(1.0, liked / banned)
