"""Owns which of a card's kept candidates ship: the best that differ; judges by no filter but diversity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gonbuild.filters import Context, StoryIndex, diversity
from gonbuild.records import Candidate, Card, Judged, Story, Verdict


@dataclass(frozen=True)
class Selection:
    """The stories chosen for one card, and its candidates by index with the verdicts of diversity added."""

    stories: tuple[Story, ...]
    judged: tuple[Judged, ...]


def select(card: Card, judged: Sequence[Judged], count: int, context: Context) -> Selection:
    """Chooses up to `count` stories: highest score first, ties by index, each different from the pack and each other.

    The pack of the context stays as it is: whoever ships the stories adds them. The order of `judged` does not matter.
    """
    verdicts: dict[int, Verdict] = {}
    stories: list[Story] = []
    own = replace(context, pack=StoryIndex())
    for candidate in sorted((j.candidate for j in judged if j.kept), key=lambda c: (-c.score, c.index)):
        if len(stories) == count:
            break
        verdict = diversity(candidate, card, context)
        if verdict.kept:
            # The nearer of the two counts, so that the figure kept for the report is the one that decided.
            verdict = max(verdict, diversity(candidate, card, own), key=lambda v: (not v.kept, float(v.measured)))
        verdicts[candidate.index] = verdict
        if verdict.kept:
            own.pack.add(candidate.text, card.effect)
            stories.append(_story(card, len(stories) + 1, candidate, context))
    by_index = sorted(judged, key=lambda j: j.candidate.index)
    return Selection(tuple(stories), tuple(_with(j, verdicts.get(j.candidate.index)) for j in by_index))


def commonest_drops(judged: Sequence[Judged]) -> list[tuple[str, int]]:
    """Counts the dropped candidates by filter, the commonest filter first, ties by name."""
    counts = Counter(verdict.filter for j in judged if (verdict := j.dropped_by))
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _story(card: Card, slot: int, candidate: Candidate, context: Context) -> Story:
    novelty, _ = context.training.nearest(candidate.text, card.effect)
    return Story(f"{card.id}.{slot}", candidate.text, candidate.index, round(candidate.score, 3), round(novelty, 1))


def _with(judged: Judged, verdict: Verdict | None) -> Judged:
    return replace(judged, verdicts=(*judged.verdicts, verdict)) if verdict else judged
