"""Owns which figures `gonbuild eval` gives and over what; the formulas are evaluate's and bleu's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from gonbuild.bleu import BleuIndex, corpus_scores, self_bleu, signature
from gonbuild.chat import parse_card_text
from gonbuild.drawing import Asked
from gonbuild.effects import form_of, read_effect, tell
from gonbuild.evaluate import distinct_n
from gonbuild.filters import Context, judge
from gonbuild.making import adapter_folder, context, drawn_or_kept
from gonbuild.records import Candidate, Card, Judged, Progress, Request, Row, digest
from gonbuild.selection import commonest_drops
from gonbuild.workspace import Workspace

SCHEMA = 1
"""Of eval.json: raised when a figure's name, place or meaning changes."""
NEAR_COPY_BLEU = 50.0
HELD_OUT_CANDIDATES = 4
"""Per held-out card: as many as most of those cards have stories to compare with."""

TRIED = (
    "Tên thẻ: Vớt Rác Trên Hồ. Loại: Bảo Vệ. Hiệu ứng: +2 điểm cho Sông",
    "Tên thẻ: Vườn Rau Trên Mái Nhà. Loại: Bảo Vệ. Hiệu ứng: +1 điểm cho Đất. +1 điểm Làng",
    "Tên thẻ: Phiên Chợ Đổi Đồ Cũ. Loại: Cộng Đồng. Hiệu ứng: +1 điểm cho Làng",
    "Tên thẻ: Ngày Hội Đạp Xe. Loại: Cộng Đồng. Hiệu ứng: Rút thêm 2 lá",
    "Tên thẻ: Tin Đồn Thất Thiệt. Loại: Cộng Đồng. Hiệu ứng: Vô hiệu Các lá bảo vệ trong lượt tới",
    "Tên thẻ: Nắng Hạn Kéo Dài. Loại: Thiên Tai. Hiệu ứng: -2 điểm cho Đất",
    "Tên thẻ: Tàu Chở Dầu Bị Đắm. Loại: Thiên Tai. Hiệu ứng: -2 điểm Sông, -1 điểm Làng",
    "Tên thẻ: Bão Số Chín. Loại: Thiên Tai. Hiệu ứng: Tất cả người chơi khác -1 điểm cho mỗi vùng họ có trên 4 điểm",
)
"""Cards as people type them after `gonbuild try`: each type, with one region, two, and a rule; the first is README's.
What `try` draws first for each is put side by side for reading, and no figure counts it.
"""


def figures(ws: Workspace, progress: Progress) -> dict[str, Any]:
    """Measures base and current adapter side by side, and the shipped stories.

    Asked are the held-out stories' probabilities, candidates for held-out cards, a round of candidates for each card of
    the game, and a story for each card of TRIED; base and adapter draw with the same noise.
    """
    folder = adapter_folder(ws, progress=progress)
    held_out = [card for card in ws.split.held_out if card.examples]
    tried = [parse_card_text(text) for text in TRIED]
    asked = [(card, 1) for card in tried] + [(card, HELD_OUT_CANDIDATES) for card in held_out]
    asked += [(card, ws.settings.sampling.candidates) for card in ws.library.cards]
    ctx = context(ws, {})
    models: dict[str, dict[str, Any]] = {}
    told: list[list[Candidate]] = []
    for name, its_folder in (("base", None), ("adapter", folder)):
        step = partial(_named, progress, name)
        measured = _measure(ws, its_folder, held_out, step)
        drawn = iter(_draw(ws, its_folder, asked, step))
        told.append([candidates[0] for candidates in islice(drawn, len(tried))])
        models[name] = {
            **measured,
            "held_out": _held_out(held_out, [*islice(drawn, len(held_out))], ctx, step) if held_out else None,
            "game": _candidates(ws.library.cards, [*drawn], ctx, step),
        }
    return {
        "schema": SCHEMA,
        "base": ws.settings.model.base,
        "adapter": ws.adapter_key,
        "held_out": {
            "cards": len(held_out),
            "stories": sum(len(card.examples) for card in held_out),
            "candidates_per_card": HELD_OUT_CANDIDATES,
        },
        "game": {"cards": len(ws.library.cards), "candidates_per_card": ws.settings.sampling.candidates},
        "models": models,
        "tried": _tried(ws, tried, told, ctx),
        "shipped": _shipped(ws),
        "self_bleu_signature": signature(),
    }


def _named(progress: Progress, name: str, what: str, done: int, total: int, loss: float | None = None, /) -> None:
    progress(f"{name}: {what}", done, total, loss)


def _measure(ws: Workspace, folder: Path | None, cards: Sequence[Card], progress: Progress) -> dict[str, float | None]:
    rows = [
        Row(card.name, ws.templates.prompt(card).text, ws.templates.completion(story))
        for card in cards
        for story in card.examples
    ]
    if not rows:
        return {"bits_per_byte": None, "perplexity": None}
    return {**ws.models.measure(folder, rows, progress)}


def _draw(
    ws: Workspace, folder: Path | None, asked: Sequence[tuple[Card, int]], progress: Progress
) -> list[tuple[Candidate, ...]]:
    """Returns the first candidates of each card, in the order asked; None draws with the bare base.

    They are kept in the store: another evaluation draws what another adapter changes, a filter changes none, and the
    adapter's first round for a card of the game is the one that a build has kept.
    """
    maker = ws.adapter_key if folder else {name: ws.adapter_inputs[name] for name in ("base", "model")}
    requests = [Request(card.id or card.name, ws.templates.prompt(card), 0, count) for card, count in asked]
    wanted = [
        Asked(r, ws.draw_inputs(maker, r.card, digest([r.prompt.text, r.prompt.without_card]), r.first, r.last))
        for r in requests
    ]
    return drawn_or_kept(ws, wanted, lambda: folder, progress)


def _held_out(
    cards: Sequence[Card], drawn: Sequence[Sequence[Candidate]], ctx: Context, progress: Progress
) -> dict[str, Any]:
    """Adds to the candidates' figures how near they are, as a corpus, to all stories of their cards."""
    pairs = [(c.text, card.examples) for card, candidates in zip(cards, drawn, strict=True) for c in candidates]
    scores = corpus_scores([text for text, _ in pairs], [stories for _, stories in pairs])
    return {
        **{name: score for name, (score, _) in scores.items()},
        **{f"{name}_signature": signature for name, (_, signature) in scores.items()},
        **_candidates(cards, drawn, ctx, progress),
    }


def _candidates(
    cards: Sequence[Card], drawn: Sequence[Sequence[Candidate]], ctx: Context, progress: Progress
) -> dict[str, Any]:
    """What becomes of candidates, diversity aside, and how much they differ; shares are 0-1, BLEU is 0-100.

    Self-BLEU is among the candidates of one card, the mean over the cards; distinct n-grams are counted over all.
    """
    judged: list[Judged] = []
    forms: dict[str, list[list[bool]]] = {}
    kinds: dict[str, list[list[bool]]] = {}
    for done, (card, candidates) in enumerate(zip(cards, drawn, strict=True)):
        progress("filtering", done, len(cards))
        judged += [judge(candidate, card, ctx) for candidate in candidates]
        fact, form = read_effect(card.effect), form_of(card.effect)
        right = [not tell(candidate.text, fact) for candidate in candidates]
        forms.setdefault(form, []).append(right)
        kinds.setdefault(_kind(form), []).append(right)
    progress("filtering", len(cards), len(cards))
    texts, count = [j.candidate.text for j in judged], len(judged)
    return {
        "candidates": count,
        "pass_rate": sum(j.kept for j in judged) / count,
        "dropped_by": {name: dropped / count for name, dropped in commonest_drops(judged)},
        "effect_told": _shares(kinds),
        "effect_told_by_form": _shares(forms),
        "self_bleu": sum(self_bleu([c.text for c in candidates]) for candidates in drawn) / len(drawn),
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
    }


def _kind(form: str) -> str:
    """Sorts the forms of effects into three kinds, each large enough for a figure."""
    regions = [part in ("+n điểm vùng", "-n điểm vùng") for part in form.split(", ")]
    return "a rule" if not all(regions) else "one region" if len(regions) == 1 else "several regions"


def _shares(told: Mapping[str, list[list[bool]]]) -> dict[str, dict[str, float]]:
    """Returns for each form its cards and the share of their candidates that told the effect right."""
    right = {form: [r for card in cards for r in card] for form, cards in told.items()}
    return {form: {"cards": len(told[form]), "share": sum(right[form]) / len(right[form])} for form in sorted(told)}


def _tried(
    ws: Workspace, cards: Sequence[Card], told: Sequence[Sequence[Candidate]], ctx: Context
) -> list[dict[str, Any]]:
    """Puts the stories of base and adapter for each card side by side, with what dropped them, if anything did."""
    trained = {card.name.casefold() for card in (*ws.library.cards, *ws.split.training)}

    def story(candidate: Candidate, card: Card) -> dict[str, str | None]:
        verdict = judge(candidate, card, ctx).dropped_by
        return {"text": candidate.text, "dropped_by": f"{verdict.filter}: {verdict.reason}" if verdict else None}

    return [
        {
            "card": text,
            "name_seen_in_training": card.name.casefold() in trained,
            "base": story(base, card),
            "adapter": story(adapter, card),
        }
        for text, card, base, adapter in zip(TRIED, cards, *told, strict=True)
    ]


def _shipped(ws: Workspace) -> dict[str, float]:
    """Figures of the stories in the packs; BLEU figures are 0-100, shares 0-1."""
    stories = [story for line in ws.lock.lines.values() for story in line.stories]
    texts = [story.text for story in stories]
    count = max(len(texts), 1)
    others = [BleuIndex(texts[:i] + texts[i + 1 :]).nearest(text)[0] for i, text in enumerate(texts)]
    trained = BleuIndex(story for card in (*ws.library.cards, *ws.library.examples) for story in card.examples)
    copies = [trained.nearest(text)[0] for text in texts]
    novelties = [s.novelty for s in stories if s.novelty is not None]
    openings = Counter(" ".join(text.split()[:3]) for text in texts)
    return {
        "stories": len(texts),
        f"share over BLEU {NEAR_COPY_BLEU:.0f} to a training story": sum(b > NEAR_COPY_BLEU for b in copies) / count,
        "mean BLEU to the nearest training story": sum(copies) / count,
        "the same without the effect's words": sum(novelties) / max(len(novelties), 1),
        "mean BLEU to the nearest other story": sum(others) / count,
        "self-BLEU": self_bleu(texts),
        "distinct-2": distinct_n(texts, 2),
        "share of stories with an opening (3 words) of their own": sum(n == 1 for n in openings.values()) / count,
    }
