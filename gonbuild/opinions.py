"""Owns what people's decisions and marks add up to; knows no story but by its text, and reads no file."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gonbuild.agreement import alpha, ordinal
from gonbuild.language import fold
from gonbuild.records import Card
from gonbuild.reviews import CRITERIA, KINDS, RATING, Decision, Reviews, stale_notes


def review_values(reviews: Reviews, cards: Sequence[Card]) -> dict[str, Any]:
    """Counts decisions by kind, and says how far the raters agree on each criterion."""
    counts = Counter(d.kind for d in reviews.decisions)
    ratings = [d for d in reviews.decisions if d.kind == RATING]
    return {
        "counts": [(kind, counts[kind]) for kind in KINDS],
        "people": len({d.by for d in reviews.decisions if d.by}),
        "bans": [{"card": d.card, "text": d.text, "reason": d.reason, "by": d.by} for d in reviews.bans],
        "stale": stale_notes(reviews, cards),
        "criteria": [agreement_values(name, ratings) for name in CRITERIA],
    }


def agreement_values(criterion: str, ratings: Iterable[Decision]) -> dict[str, Any]:
    """Returns mean and Krippendorff's alpha (ordinal) of the marks from 1 to 5 for one criterion."""
    units: dict[tuple[str, str], dict[str, int]] = {}
    for d in ratings:
        if criterion in d.scores:
            units.setdefault((d.card, fold(d.text)), {})[d.by] = d.scores[criterion]
    marks = [mark for told in units.values() for mark in told.values()]
    value = alpha([list(told.values()) for told in units.values()], ordinal)
    pairable = sum(len(told) > 1 for told in units.values())
    why = "all marks to compare are equal" if pairable else "nobody else rated the same stories"
    return {
        "name": criterion,
        "stories": len(units),
        "pairable": pairable,
        "raters": len({by for told in units.values() for by in told}),
        "marks": [marks.count(n) for n in range(1, 6)],
        "mean": sum(marks) / len(marks) if marks else None,
        "alpha": value,
        "why": "" if value is not None else why if marks else "no ratings",
    }
