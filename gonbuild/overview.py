"""Owns what the report of a project says: plan, candidates, reviews and stories as plain values; draws nothing.

Nothing in it hangs on the clock or the machine: the same project gives the same values.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from gonbuild.curves import KEPT
from gonbuild.filters import FILTERS
from gonbuild.language import words
from gonbuild.opinions import review_values
from gonbuild.overlap import beside
from gonbuild.pipeline import CANDIDATES
from gonbuild.plan import KEEP, Plan
from gonbuild.records import TYPES, Card, Story
from gonbuild.report import Seen, seen_by_card
from gonbuild.reviews import BAN, RATING
from gonbuild.workspace import Workspace

ORDER = (*(check.__name__ for check in FILTERS), "diversity")

Values = dict[str, Any]


def overview(ws: Workspace, plan: Plan | None = None) -> Values:
    """Gathers what `render_report` shows of a project as its folder stands now; the plan is that of the last build.

    The workspace must be one that has read no earlier lock. Comparing with the training stories takes two or three
    seconds, most of it for their index, which a workspace may have already; then 3 ms a story.

    Raises:
        InputError: cards, reviews or lock are wrong.
    """
    seen = {card: told for card, told in seen_by_card(ws.read(CANDIDATES)).items() if card in ws.scan.prompts}
    sources = training_sources(ws)
    cards = [_card(ws, card, seen.get(card.id, ()), sources) for card in ws.scan.cards]
    stories = [story for card in cards for story in card["stories"]]
    return {
        "title": ws.settings.packs.title,
        "base": ws.settings.model.base,
        "counts": {
            "cards": len(cards),
            "stories": len(stories),
            "wanted": sum(card["wanted"] for card in cards),
            "accepted": sum(story["accepted"] for story in stories),
            "seen": sum(card["seen"] for card in cards),
            "kept": sum(card["kept"] for card in cards),
            "drawn_cards": len(seen),
        },
        "plan": plan_values(plan) if plan else None,
        "training": training(ws),
        "adapters": adapters(ws),
        "drops": drops([s for told in seen.values() for s in told]),
        "distributions": distributions(ws, [s for told in seen.values() for s in told]),
        "reviews": review_values(ws.reviews, ws.scan.cards),
        "closest": closest(cards),
        "types": [
            {"name": name, "kind": kind}
            for kind, name in enumerate(TYPES)
            if any(card["kind"] == kind for card in cards)
        ],
        "cards": cards,
    }


def plan_values(plan: Plan) -> Values:
    """Says which steps of a plan change something, and counts those that do not."""
    return {
        "changes": plan.changes,
        "steps": [
            {"what": step.what, "action": step.action, "reasons": list(step.reasons)}
            for step in plan.steps
            if step.action != KEEP
        ],
        "kept": sum(step.action == KEEP for step in plan.cards),
        "notes": list(plan.notes),
    }


# --- the adapter ---------------------------------------------------------------------------------


def adapters(ws: Workspace) -> list[Values]:
    """Returns the adapters that the stories were made with, that of most cards first."""
    counts = Counter(line.adapter for line in ws.lock.lines.values())
    ordered = sorted(counts, key=lambda key: (-counts[key], key))
    return [{"key": key, "cards": counts[key], "current": key == ws.adapter_key} for key in ordered]


def training(ws: Workspace) -> Values | None:
    """Returns the loss curve of the adapter of most cards, else today's; None where this cache holds neither."""
    for key in [*(told["key"] for told in adapters(ws)), ws.adapter_key]:
        folder = ws.store.get("adapter", key)
        try:
            told = json.loads((folder / KEPT).read_bytes()) if folder else {}
            losses = [(float(step), float(loss)) for step, loss in told["losses"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if losses:
            return {"key": key, "losses": losses}
    return None


# --- candidates ----------------------------------------------------------------------------------


def drops(seen: Sequence[Seen]) -> list[Values]:
    """Counts what each filter dropped of all candidates, the filter that dropped most first, with an example."""
    found: dict[str, list[Seen]] = {}
    for candidate in seen:
        if candidate.filter:
            found.setdefault(candidate.filter, []).append(candidate)
    names = sorted(found, key=lambda name: (-len(found[name]), ORDER.index(name) if name in ORDER else -1, name))
    return [
        {
            "name": name,
            "count": len(found[name]),
            "percent": 100 * len(found[name]) / len(seen),
            "example": vars(min(found[name], key=lambda s: (len(s.reason), s.card, s.index))),
        }
        for name in names
    ]


def distributions(ws: Workspace, seen: Sequence[Seen]) -> list[Values]:
    """Returns length, novelty and log-probability of the candidates that were kept and of those that were dropped."""
    limits = ws.settings.filters
    measures: list[tuple[str, str, list[tuple[Seen, float]], list[float]]] = [
        (
            "Length",
            "words",
            [(s, float(len(words(s.text)))) for s in seen],
            [float(limits.min_words), float(limits.max_words)],
        ),
        (
            "Nearness to a training story",
            "BLEU, 0-100",
            [(s, s.novelty) for s in seen if s.novelty is not None and isfinite(s.novelty)],
            [limits.max_novelty_bleu],
        ),
        ("Score", "log-probability, nats per token", [(s, s.score) for s in seen if isfinite(s.score)], []),
    ]
    return [
        {
            "name": name,
            "unit": unit,
            "kept": [value for s, value in told if not s.filter],
            "dropped": [value for s, value in told if s.filter],
            "unmeasured": len(seen) - len(told),
            "limits": marks,
        }
        for name, unit, told, marks in measures
    ]


# --- cards ---------------------------------------------------------------------------------------


def closest(cards: Sequence[Values]) -> Values | None:
    """Returns which story is nearest to a training story, with the mean BLEU of all; None where none is near to any."""
    near = [(s["nearest"]["bleu"], card["id"], s["id"]) for card in cards for s in card["stories"] if s["nearest"]]
    if not near:
        return None
    count = sum(len(card["stories"]) for card in cards)
    bleu, card, story = max(near, key=lambda told: told[0])
    return {"card": card, "id": story, "bleu": bleu, "mean": sum(score for score, _, _ in near) / count}


def training_sources(ws: Workspace) -> dict[str, Card]:
    """Returns for each training story the card it was written for, the first of several."""
    cards = (*ws.library.cards, *ws.library.examples)
    return {story: card for card in reversed(cards) for story in card.examples}


def _card(ws: Workspace, card: Card, seen: Sequence[Seen], sources: Mapping[str, Card]) -> Values:
    line = ws.lock.lines.get(card.id)
    counts = Counter(s.filter for s in seen if s.filter)
    return {
        "id": card.id,
        "name": card.name,
        "kind": TYPES.index(card.type),
        "effect": card.effect,
        "wanted": card.stories or ws.settings.selection.stories,
        "short": line.short if line else "",
        "seen": len(seen),
        "kept": sum(not s.filter for s in seen),
        "drops": sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])),
        "stories": [_story(ws, card, story, sources) for story in ws.stories(card.id)],
    }


def _story(ws: Workspace, card: Card, story: Story, sources: Mapping[str, Card]) -> Values:
    decisions = ws.reviews.on(card.id, story.text)
    return {
        "id": story.id,
        "text": story.text,
        "state": ws.reviews.state(card.id, story.text),
        "accepted": ws.reviews.accepts(card.id, story.text),
        "by": sorted({d.by for d in decisions if d.by and d.kind != RATING}),
        "ban": next((d.reason for d in decisions if d.kind == BAN), ""),
        "ratings": [{"by": d.by, "scores": dict(d.scores)} for d in decisions if d.kind == RATING],
        "score": story.score,
        "candidate": story.candidate,
        "words": len(words(story.text)),
        "nearest": _nearest(ws, card, story.text, sources),
    }


def _nearest(ws: Workspace, card: Card, text: str, sources: Mapping[str, Card]) -> Values | None:
    """Returns the training story that is nearest to a text by BLEU, laid beside it; None where none shares a word."""
    score, near = ws.training_index.nearest(text, card.effect)
    if not near or score <= 0:
        return None
    source = sources[near]
    both = beside(text, card.effect, near, source.effect)
    return {
        "bleu": score,
        "card": source.name,
        "story": [vars(part) for part in both.story],
        "other": [vars(part) for part in both.other],
        "shared": both.shared,
        "words": both.words,
    }
