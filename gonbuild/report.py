"""Owns what is said of a build and of a model in words and tables; knows no store and no model."""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gonbuild.packs import Line
from gonbuild.plan import Step
from gonbuild.records import Judged, Story, canonical


@dataclass(frozen=True)
class Seen:
    """One candidate of a card's last build on this machine, as `candidates.jsonl` has it."""

    card: str
    index: int
    text: str
    score: float
    """Nats per token."""
    novelty: float | None = None
    """BLEU to the nearest training story, 0-100; None where an earlier filter dropped it."""
    filter: str = ""
    """What dropped it, if anything did; so the three below."""
    reason: str = ""
    measured: str = ""
    wanted: str = ""


def candidates_jsonl(
    earlier: bytes, judged: Mapping[str, Sequence[Judged]], cards: Collection[str], card_weight: float
) -> bytes:
    """Returns a line per candidate, by card and index: its figures, and what dropped it, if anything did.

    Lines of cards that were not judged now stay as `earlier` has them; cards that are no more are left out.
    """
    rows = {c: [seen for seen in told if _writable(seen)] for c, told in seen_by_card(earlier).items() if c in cards}
    for card, all_judged in judged.items():
        rows[card] = [_seen(j, card_weight) for j in sorted(all_judged, key=lambda j: j.candidate.index)]
    told = (
        canonical({k: v for k, v in vars(seen).items() if v not in ("", None)})
        for c in sorted(rows)
        for seen in rows[c]
    )
    return "".join(f"{line}\n" for line in told).encode()


def _seen(judged: Judged, card_weight: float) -> Seen:
    c, drop = judged.candidate, judged.dropped_by
    novelty = next((float(v.measured) for v in judged.verdicts if v.filter == "novelty"), None)
    why = (drop.filter, drop.reason, drop.measured, drop.wanted) if drop else ()
    return Seen(c.card, c.index, c.text, round(c.score(card_weight), 3), novelty, *why)


def seen_by_card(data: bytes) -> dict[str, list[Seen]]:
    """Reads `candidates.jsonl`, lines that are none left out: it lies in a folder that anyone may write to."""
    rows: dict[str, list[Seen]] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            seen = Seen(**json.loads(line))
            if all(isinstance(getattr(seen, name), kind) for name, kind in _KINDS.items()):
                rows.setdefault(seen.card, []).append(seen)
    return rows


def _writable(seen: Seen) -> bool:
    """Tells whether a line that was read can be written: JSON knows no infinity, UTF-8 no surrogate."""
    texts = "".join(getattr(seen, name) for name in _TEXTS)
    return math.isfinite(seen.score) and math.isfinite(seen.novelty or 0.0) and not _SURROGATE.search(texts)


_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXTS = ("card", "text", "filter", "reason", "measured", "wanted")
_KINDS: Mapping[str, Any] = {**dict.fromkeys(_TEXTS, str), "index": int, "score": float, "novelty": float | None}


def card_history(step: Step, line: Line | None, candidates: bytes) -> list[str]:
    """Tells a card's story in lines: what the next build does and why, its stories, and what was dropped."""
    lines = [f"{step.what}: {step.action}" + (f": {'; '.join(step.reasons)}" if step.reasons else "")]
    if line is None:
        return lines
    lines += [f"  {name}: {value}" for name, value in sorted(line.inputs.items()) if name not in ("prompt", "settings")]
    lines.append(f"  adapter: {line.adapter[:8]}")
    for story in line.stories:
        lines.append(f"  {story.id} ({story_figures(story)}): {story.text}")
    if line.short:
        lines.append(f"  ships {line.short}")
    counts = Counter(seen.filter for seen in seen_by_card(candidates).get(step.what, ()) if seen.filter)
    lines += [f"  dropped by {name}: {count}" for name, count in counts.most_common()]
    return lines


def story_figures(story: Story) -> str:
    """Puts the figures that a story was chosen by into words."""
    if story.candidate is None or story.score is None or story.novelty is None:
        return "a person's wording"
    return f"candidate {story.candidate}, score {story.score:.2f} nats/token, novelty {story.novelty:.0f} BLEU"


def training_line(record: bytes) -> str:
    """Puts what an adapter's training.json tells into a line; empty where it tells nothing."""
    try:
        told = json.loads(record)
        losses, hardware, versions = told["losses"], told["hardware"], told["versions"]
        curve = f"loss {losses[0][1]:.2f} -> {losses[-1][1]:.2f} in {len(losses)} updates"
        device = f"{hardware['devices']} x {hardware['device']}"
        rows = f"{told['data']['rows']} rows, {curve}, {told['seconds']:.0f} s{_marks(told.get('preferences'))}"
        return f"{rows} on {device}, torch {versions['torch']}"
    except (ValueError, KeyError, TypeError, IndexError):
        return ""


def _marks(told: Mapping[str, Any] | None) -> str:
    """Puts what learning from marks did into a clause; empty where nothing was learned from them."""
    if told is None:
        return ""
    what = "pairs" if told["method"] == "dpo" else "marked stories"
    return f", then {told['method']} on {told['read']} {what}, {told['seconds']:.0f} s,"
