"""Owns the way from candidates to a card's stories: rounds of drawing, judging and choosing; writes no pack."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from gonbuild.drawing import Asked, kept_candidates
from gonbuild.errors import MachineError, Problem
from gonbuild.filters import TEXT_FILTERS, Context, StoryIndex, diversity, judge, shipped
from gonbuild.language import fold
from gonbuild.placing import in_slots
from gonbuild.plan import Step
from gonbuild.records import Candidate, Card, Judged, Progress, Request, Story, quiet
from gonbuild.reviews import BAN
from gonbuild.selection import select
from gonbuild.workspace import Workspace

OTHERS = 3
"""Candidates of a card beside those that ship, which the pack offers to reviewers."""


@dataclass
class Made:
    """One card on its way through the rounds; `judged` holds every candidate seen."""

    card: Card
    adapter: str
    count: int
    """Stories wanted."""
    first_round: int = 0
    fixed: Mapping[int, Story] = field(default_factory=dict)
    """Slot -> story that stands before any candidate is chosen: people's pins, and what stays."""
    rounds: int = 0
    """Rounds tried."""
    found: int = 0
    """Stories fixed or chosen among the candidates; the others shipped before."""
    judged: list[Judged] = field(default_factory=list)
    stories: tuple[Story, ...] = ()
    others: tuple[Story, ...] = ()
    """The best candidates that do not ship."""


def make_stories(
    ws: Workspace, steps: Sequence[Step], kept: Mapping[str, Sequence[Story]], progress: Progress
) -> list[Made]:
    """Draws candidates round by round until each card has its stories or the rounds are over.

    `kept` are the other cards' stories, which the new ones must differ from.
    """
    if not steps:
        return []
    cards = {card.id: card for card in ws.library.cards}
    wanted = ws.settings.selection
    work = [
        Made(cards[s.what], s.adapter, cards[s.what].stories or wanted.stories, s.first_round, ws.fixed(s.what, s.held))
        for s in steps
    ]
    progress("reading the training stories", 0, 1)
    ctx = context(ws, {**kept, **{m.card.id: [*m.fixed.values()] for m in work}})
    progress("reading the training stories", 1, 1)
    pending = work
    for round_ in range(wanted.rounds):
        drawn = draw_round(ws, pending, round_, progress)
        for done, m in enumerate(pending, 1):
            m.rounds = round_ + 1
            m.judged += [judge(c, m.card, ctx) for c in drawn[m.card.id]]
            _choose(ws, m, ctx, last=m.rounds == wanted.rounds)
            progress("filtering", done, len(pending))
        pending = [m for m in pending if len(m.stories) < m.count]
        if not pending:
            break
    return work


def _choose(ws: Workspace, m: Made, ctx: Context, *, last: bool) -> None:
    """Gives a card its stories when there are enough of them, or when there will be no more."""
    weight, count = ws.settings.selection.card_weight, m.count - len(m.fixed)
    chosen = select(m.card, m.judged, count, ctx, weight)
    stories = list(chosen.stories)
    if len(stories) < count and not last:
        return
    kept, m.judged, m.found = m.judged, list(chosen.judged), len(stories) + len(m.fixed)
    for story in stories:
        ctx.pack.add(story.text, m.card.effect)
    earlier = ws.stories(m.card.id)
    there = {story.text for story in (*stories, *m.fixed.values())}
    for story in earlier:
        if len(stories) < count and story.text not in there and _ships(story, m.card, ctx):
            stories.append(story)
    m.stories = in_slots(m.card.id, stories, m.fixed, earlier)
    # Beside the card's own stories alone: what is offered shall not depend on when the other cards were made.
    own = StoryIndex((story.text, m.card.effect) for story in m.stories)
    m.others = select(m.card, kept, OTHERS, replace(ctx, pack=own), weight).stories


def still_pass(ws: Workspace, card_id: str) -> bool:
    """Tells whether a card's shipped stories pass today's filters beside the rest of the pack.

    Those that people accepted are not asked.
    """
    cards = {card.id: card for card in ws.library.cards}
    others = {card: line.stories for card, line in ws.lock.lines.items() if card in cards}
    own = others.pop(card_id)
    ctx = context(ws, others)
    return all(ws.reviews.accepts(card_id, s.text) or _ships(s, cards[card_id], ctx) for s in own)


def _ships(story: Story, card: Card, ctx: Context) -> bool:
    """Adds a story that shipped before to the pack if it passes the filters."""
    candidate = shipped(card, story)
    good = judge(candidate, card, ctx).kept and diversity(candidate, card, ctx).kept
    if good:
        ctx.pack.add(story.text, card.effect)
    return good


def context(ws: Workspace, pack: Mapping[str, Sequence[Story]]) -> Context:
    """Returns what filters compare with: all training stories, the stories of a pack by card id, and the bans."""
    effects = {card.id: card.effect for card in ws.library.cards}
    told = ((story.text, effects[card]) for card, stories in pack.items() for story in stories)
    return replace(_text_context(ws), training=ws.training_index, pack=StoryIndex(told))


def _text_context(ws: Workspace) -> Context:
    """Returns what the text filters compare with: the bans alone, so that no training story need be read."""
    effects = {card.id: card.effect for card in ws.scan.cards}
    bans = StoryIndex((ban.text, effects[ban.card]) for ban in ws.reviews.bans)
    reasons = {fold(ban.text): ban.reason for ban in ws.reviews.bans}
    return Context(ws.settings.filters, StoryIndex(), StoryIndex(), bans, reasons)


def refused_slots(ws: Workspace) -> dict[str, dict[str, str]]:
    """Returns which shipped stories may not stay, and why: card id -> slot -> words that go after "story ... ".

    Banned ones and near copies of them; and those that a filter drops by their text alone, of cards that are as they
    were when the lock was written: it may come from a stranger. Of what a person accepted, a ban of the very text alone
    counts.
    """
    ctx = _text_context(ws)
    found: dict[str, dict[str, str]] = {}
    for card in ws.scan.cards:
        line = ws.lock.lines.get(card.id)
        same = line is not None and line.inputs == ws.card_inputs(card)
        for story in line.stories if line else ():
            if why := _refusal(ws, card, story, ctx, same=same):
                found.setdefault(card.id, {})[str(story.slot)] = why
    return found


def _refusal(ws: Workspace, card: Card, story: Story, ctx: Context, *, same: bool) -> str:
    if own := next((d.reason for d in ws.reviews.on(card.id, story.text) if d.kind == BAN), ""):
        return f"is banned: {own}"
    if ws.reviews.accepts(card.id, story.text):
        return ""
    score, near = ctx.bans.nearest(story.text, card.effect)
    if score > ctx.settings.max_novelty_bleu:
        return f"is banned: near to a story that is ({ctx.reasons[fold(near)]})"
    verdicts = (check(shipped(card, story), card, ctx) for check in (TEXT_FILTERS if same else ()))
    return next((f"is dropped by {v.filter}: {v.reason}" for v in verdicts if not v.kept), "")


def draw_round(
    ws: Workspace, work: Sequence[Made], round_: int, progress: Progress
) -> dict[str, tuple[Candidate, ...]]:
    """Returns each card's candidates of one round, card id -> candidates."""
    by_adapter: dict[str, list[Asked]] = {}
    for m in work:
        inputs = ws.candidate_inputs(m.adapter, m.card.id, m.first_round + round_)
        request = Request(m.card.id, ws.templates.prompt(m.card), inputs["first"], inputs["last"])
        by_adapter.setdefault(m.adapter, []).append(Asked(request, inputs))
    drawn: dict[str, tuple[Candidate, ...]] = {}
    for adapter, asked in by_adapter.items():
        found = drawn_or_kept(ws, asked, partial(adapter_folder, ws, adapter, progress), progress)
        drawn |= {a.request.card: candidates for a, candidates in zip(asked, found, strict=True)}
    return drawn


def drawn_or_kept(
    ws: Workspace, asked: Sequence[Asked], folder: Callable[[], Path | None], progress: Progress
) -> list[tuple[Candidate, ...]]:
    """Returns the candidates of each request, in the order asked, all of them from the store.

    What is missing there is drawn into it first. The adapter's folder, None for the bare base, is asked for only then.

    Raises:
        MachineError: the store cannot give back what was put there just now.
    """
    found = [kept_candidates(ws.store, a) for a in asked]
    if missing := [a for a, candidates in zip(asked, found, strict=True) if candidates is None]:
        ws.draw(ws, folder(), missing, progress)
        found = [kept_candidates(ws.store, a) if c is None else c for a, c in zip(asked, found, strict=True)]
    lost = [a.request.card for a, candidates in zip(asked, found, strict=True) if candidates is None]
    if lost:
        what = f"candidates of {', '.join(lost[:3])} that were kept just now cannot be read"
        raise MachineError(
            Problem(str(ws.store.root), what, "Is the disk sound, and does nobody else empty the cache?")
        )
    return [candidates for candidates in found if candidates is not None]


def adapter_folder(ws: Workspace, key: str = "", progress: Progress = quiet) -> Path:
    """Returns the folder of an adapter, the current one by default, from the store or else from the remote.

    Trains the current one where neither has it, and sends it to the remote once the store holds it.
    """
    key = key or ws.adapter_key
    folder = ws.store.get("adapter", key) or ws.remote.pull(key, progress)
    if folder is not None:
        return folder
    if key != ws.adapter_key:
        what = f"adapter {key[:8]} was damaged in the store and is no longer the current one"
        raise MachineError(Problem("", what, "Run the build again: it now uses the current adapter."))
    with ws.store.scratch("training", key) as work:
        folder = ws.store.put(
            "adapter",
            key,
            ws.adapter_inputs,
            lambda aside: ws.models.train(ws.rows, aside, work, progress, ws.preferences),
        )
    if ws.settings.cache.push:
        ws.remote.push(key, progress)
    return folder
