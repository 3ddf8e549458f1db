"""Owns which of a card's kept candidates ship: the best that differ; judges by no filter but diversity."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gonbuild.filters import Context, StoryIndex, diversity
from gonbuild.records import Candidate, Card, Judged, Story, Verdict
from gonbuild.sources import clean


@dataclass(frozen=True)
class Selection:
    """The stories chosen for one card, and its candidates by index with the verdicts of diversity added."""

    stories: tuple[Story, ...]
    judged: tuple[Judged, ...]


def select(card: Card, judged: Sequence[Judged], count: int, context: Context, card_weight: float = 0.0) -> Selection:
    """Chooses up to `count` stories: highest score first, ties by index, each different from the pack and each other.

    Those that, the effect's words counted in, are nearer to a training story than `max_novelty_bleu` come last: a long
    rule leaves some cards no others, so no filter drops them.
    The pack of the context stays as it is: whoever ships the stories adds them. The order of `judged` does not matter.
    """
    verdicts: dict[int, Verdict] = {}
    stories: list[Story] = []
    own = replace(context, pack=StoryIndex())
    limit, near = context.settings.max_novelty_bleu, context.training.nearest_whole
    for candidate in sorted(best_first(judged, card_weight), key=lambda c: near(c.text, card.effect) > limit):
        if len(stories) == count:
            break
        verdict = diversity(candidate, card, context)
        if verdict.kept:
            # The nearer of the two counts, so that the figure kept for the report is the one that decided.
            verdict = max(verdict, diversity(candidate, card, own), key=lambda v: (not v.kept, float(v.measured)))
        verdicts[candidate.index] = verdict
        if verdict.kept:
            own.pack.add(candidate.text, card.effect)
            novelty, _ = context.training.nearest(candidate.text, card.effect)
            score = round(candidate.score(card_weight), 3)
            slot = f"{card.id}.{len(stories) + 1}"
            stories.append(Story(slot, clean(candidate.text), candidate.index, score, round(novelty, 1)))
    by_index = sorted(judged, key=lambda j: j.candidate.index)
    return Selection(tuple(stories), tuple(_with(j, verdicts.get(j.candidate.index)) for j in by_index))


def best_first(judged: Iterable[Judged], card_weight: float) -> list[Candidate]:
    """Returns the kept candidates, the highest score first, ties by index."""
    return sorted((j.candidate for j in judged if j.kept), key=lambda c: (-c.score(card_weight), c.index))


def commonest_drops(judged: Sequence[Judged]) -> list[tuple[str, int]]:
    """Counts the dropped candidates by filter, the commonest filter first, ties by name."""
    counts = Counter(verdict.filter for j in judged if (verdict := j.dropped_by))
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _with(judged: Judged, verdict: Verdict | None) -> Judged:
    return replace(judged, verdicts=(*judged.verdicts, verdict)) if verdict else judged
