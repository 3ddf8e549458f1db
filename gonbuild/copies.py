"""Owns finding copies among the stories that ship, which come into a project by another way than a build.

A build chose the stories apart, but examples are added later, branches are merged, and a lock may come from a stranger.
Since no change to one card may change another's stories, people decide what becomes of copies.
"""

from collections.abc import Iterator, Sequence

from gonbuild.errors import Problem
from gonbuild.filters import StoryIndex, novelty, reference, shipped
from gonbuild.making import context
from gonbuild.packs import PACKS
from gonbuild.records import Card, Story
from gonbuild.workspace import Workspace

PACK = f"{PACKS}/stories.json"


def shipped_copies(ws: Workspace) -> Iterator[Problem]:
    """Yields what `novelty`, `reference` and `diversity` say against shipped stories that nobody accepted.

    Reading the training stories takes a second or two: `Workspace.copies` remembers what was found.
    """
    ctx = context(ws, {})
    told = [(card, story) for card in ws.library.cards for story in ws.stories(card.id)]
    open_ = {story.id for card, story in told if not ws.reviews.accepts(card.id, story.text)}
    for card, story in told:
        verdicts = (check(shipped(card, story), card, ctx) for check in (novelty, reference))
        for verdict in verdicts:
            if story.id in open_ and not verdict.kept:
                cure = f"`gonbuild stories --refresh {card.id}` asks for another, and one that people approve may stay."
                yield Problem(PACK, f"story '{story.id}' is dropped by {verdict.filter}: {verdict.reason}", cure)
    for first, second, problem in near_pairs(told, ctx.settings.max_diversity_bleu):
        if open_ & {first, second}:
            yield problem


def near_pairs(told: Sequence[tuple[Card, Story]], limit: float) -> Iterator[tuple[str, str, Problem]]:
    """Yields the ids of each two stories that are near-duplicates, and the problem that this is.

    BLEU is another one in the other direction, and which of two stories was chosen first is not known: a pair that
    selection can have let pass, in either order, is none.
    """
    index = StoryIndex()
    for card, story in told:
        for score, at in index.over(story.text, card.effect, limit):
            other_card, other = told[at]
            back, _ = StoryIndex([(story.text, card.effect)]).nearest(other.text, other_card.effect)
            if back > limit:
                what = f"stories '{other.id}' and '{story.id}' are near-duplicates: BLEU {back:.1f} and {score:.1f}"
                wanted = f"Wanted at most {limit:.1f}, effects left out (filters.max_diversity_bleu): ban or edit one."
                yield other.id, story.id, Problem(PACK, what, wanted)
        index.add(story.text, card.effect)
