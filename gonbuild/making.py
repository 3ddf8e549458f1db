"""Owns the way from candidates to a card's stories: rounds of drawing, judging and choosing; writes no pack."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from gonbuild.drawing import Asked, kept_candidates
from gonbuild.errors import MachineError, Problem
from gonbuild.filters import Context, StoryIndex, diversity, judge
from gonbuild.plan import Step
from gonbuild.records import Candidate, Card, Judged, Progress, Request, Story, quiet
from gonbuild.selection import select
from gonbuild.workspace import Workspace


@dataclass
class Made:
    """One card on its way through the rounds; `judged` holds every candidate seen."""

    card: Card
    adapter: str
    count: int
    """Stories wanted."""
    first_round: int = 0
    rounds: int = 0
    """Rounds tried."""
    found: int = 0
    """Stories chosen among the candidates; the others shipped before."""
    judged: list[Judged] = field(default_factory=list)
    stories: tuple[Story, ...] = ()


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
    work = [Made(cards[s.what], s.adapter, cards[s.what].stories or wanted.stories, s.first_round) for s in steps]
    progress("reading the training stories", 0, 1)
    ctx = context(ws, kept)
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
    chosen = select(m.card, m.judged, m.count, ctx, ws.settings.selection.card_weight)
    m.stories = chosen.stories
    if len(m.stories) < m.count and not last:
        return
    m.judged, m.found = list(chosen.judged), len(m.stories)
    for story in m.stories:
        ctx.pack.add(story.text, m.card.effect)
    line = ws.lock.lines.get(m.card.id)
    earlier = ws.stories(line) if line else ()
    for story in earlier:
        if len(m.stories) < m.count and _ships(story, m.card, ctx):
            m.stories += (story,)
    m.stories = _in_slots(m.card.id, m.stories, earlier)


def _in_slots(card: str, stories: Iterable[Story], earlier: Iterable[Story]) -> tuple[Story, ...]:
    """Numbers a card's stories: one that shipped before keeps its id, which a translation may hang on."""
    before = {story.text: story.id for story in earlier}
    stories = list(stories)
    slots = [f"{card}.{n}" for n in range(1, len(stories) + 1)]
    kept = {story.text: before[story.text] for story in stories if before.get(story.text) in slots}
    free = iter(slot for slot in slots if slot not in kept.values())
    return tuple(
        sorted((replace(s, id=kept.get(s.text) or next(free)) for s in stories), key=lambda s: slots.index(s.id))
    )


def still_pass(ws: Workspace, card_id: str) -> bool:
    """Tells whether all of a card's shipped stories pass today's filters beside the rest of the pack."""
    cards = {card.id: card for card in ws.library.cards}
    others = {line.card: ws.stories(line) for line in ws.lock.lines.values() if line.card in cards}
    own = others.pop(card_id)
    ctx = context(ws, others)
    return all(_ships(story, cards[card_id], ctx) for story in own)


def _ships(story: Story, card: Card, ctx: Context) -> bool:
    """Adds a story that shipped before to the pack if it passes the filters; its end was seen when it was chosen."""
    candidate = Candidate(card.id, story.candidate, story.text, 1, 0.0, 0.0, ended=True)
    good = judge(candidate, card, ctx).kept and diversity(candidate, card, ctx).kept
    if good:
        ctx.pack.add(story.text, card.effect)
    return good


def context(ws: Workspace, pack: Mapping[str, Sequence[Story]]) -> Context:
    """Returns what filters compare with: all training stories, and the stories of a pack by card id."""
    effects = {card.id: card.effect for card in ws.library.cards}
    shipped = ((story.text, effects[card]) for card, stories in pack.items() for story in stories)
    return Context(ws.settings.filters, ws.training_index, StoryIndex(shipped))


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
