"""Owns which figures `gonbuild eval` gives and over what; the formulas are evaluate's and bleu's."""

from collections import Counter
from typing import Any

from gonbuild.bleu import BleuIndex, self_bleu
from gonbuild.effects import form_of, read_effect, tell
from gonbuild.evaluate import distinct_n
from gonbuild.filters import judge
from gonbuild.making import Made, adapter_folder, context, draw_round
from gonbuild.records import Progress, Row
from gonbuild.selection import commonest_drops
from gonbuild.workspace import Workspace

NEAR_COPY_BLEU = 50.0


def figures(ws: Workspace, progress: Progress) -> dict[str, Any]:
    """Measures the current adapter: held-out stories, a round of candidates for each card, and the shipped stories."""
    folder = adapter_folder(ws, progress=progress)
    held_out = ws.split.held_out
    rows = [
        Row(card.name, ws.templates.prompt(card).text, ws.templates.completion(story))
        for card in held_out
        for story in card.examples
    ]
    return {
        "base": ws.settings.model.base,
        "adapter": ws.adapter_key,
        "held_out_cards": len(held_out),
        "held_out_stories": len(rows),
        **(ws.models.measure(folder, rows, progress) if rows else {}),
        **_candidates(ws, progress),
        "shipped": _shipped(ws),
    }


def _candidates(ws: Workspace, progress: Progress) -> dict[str, Any]:
    """What becomes of the first round's candidates, diversity aside: shares that each filter drops, effects told."""
    work = [Made(card, ws.adapter_key, 0) for card in ws.library.cards]
    drawn = draw_round(ws, work, 0, progress)
    ctx = context(ws, {})
    judged = [judge(candidate, m.card, ctx) for m in work for candidate in drawn[m.card.id]]
    count = max(len(judged), 1)
    told: dict[str, list[bool]] = {}
    for m in work:
        fact = read_effect(m.card.effect)
        told.setdefault(form_of(m.card.effect), []).extend(not tell(c.text, fact) for c in drawn[m.card.id])
    return {
        "cards": len(work),
        "candidates": len(judged),
        "pass_rate": sum(j.kept for j in judged) / count,
        "dropped_by": {name: dropped / count for name, dropped in commonest_drops(judged)},
        "effect_told": {form: sum(right) / len(right) for form, right in sorted(told.items())},
    }


def _shipped(ws: Workspace) -> dict[str, float]:
    """Figures of the stories in the packs; BLEU figures are 0-100, shares 0-1."""
    stories = [story for line in ws.lock.lines.values() for story in ws.stories(line)]
    texts = [story.text for story in stories]
    count = max(len(texts), 1)
    others = [BleuIndex(texts[:i] + texts[i + 1 :]).nearest(text)[0] for i, text in enumerate(texts)]
    trained = BleuIndex(story for card in (*ws.library.cards, *ws.library.examples) for story in card.examples)
    copies = [trained.nearest(text)[0] for text in texts]
    openings = Counter(" ".join(text.split()[:3]) for text in texts)
    return {
        "stories": len(texts),
        f"share over BLEU {NEAR_COPY_BLEU:.0f} to a training story": sum(b > NEAR_COPY_BLEU for b in copies) / count,
        "mean BLEU to the nearest training story": sum(copies) / count,
        "the same without the effect's words": sum(s.novelty for s in stories) / count,
        "mean BLEU to the nearest other story": sum(others) / count,
        "self-BLEU": self_bleu(texts),
        "distinct-2": distinct_n(texts, 2),
        "share of stories with an opening (3 words) of their own": sum(n == 1 for n in openings.values()) / count,
    }
