"""Owns what is said of a build and of a model in words and tables; knows no store and no model."""

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gonbuild.packs import Line
from gonbuild.plan import Step
from gonbuild.records import Judged, Story, canonical


def dropped_jsonl(earlier: bytes, judged: Mapping[str, Sequence[Judged]], cards: Collection[str]) -> bytes:
    """Returns one line per dropped candidate, by card and index, with filter, reason, measured and wanted.

    Lines of cards that were not judged now stay as `earlier` has them; cards that are no more are left out.
    """
    rows: dict[str, list[str]] = {}
    for line in earlier.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            card = json.loads(line)["card"]
            if card in cards and card not in judged:
                rows.setdefault(card, []).append(line)
    for card, all_judged in judged.items():
        for j in sorted(all_judged, key=lambda j: j.candidate.index):
            if verdict := j.dropped_by:
                row = {"card": card, "index": j.candidate.index, "text": j.candidate.text, **vars(verdict)}
                del row["kept"]
                rows.setdefault(card, []).append(canonical(row))
    return "".join(f"{line}\n" for card in sorted(rows) for line in rows[card]).encode()


def card_history(step: Step, line: Line | None, stories: Sequence[Story], dropped: bytes) -> list[str]:
    """Tells a card's story in lines: what the next build does and why, its stories, and what was dropped."""
    lines = [f"{step.what}: {step.action}" + (f": {'; '.join(step.reasons)}" if step.reasons else "")]
    if line is None:
        return lines
    lines += [f"  {name}: {value}" for name, value in sorted(line.inputs.items()) if name not in ("prompt", "settings")]
    lines.append(f"  adapter: {line.adapter[:8]}")
    for story in stories:
        figures = f"candidate {story.candidate}, score {story.score:.2f} nats/token, novelty {story.novelty:.0f} BLEU"
        lines.append(f"  {story.id} ({figures}): {story.text}")
    if line.short:
        lines.append(f"  ships {line.short}")
    counts: Counter[str] = Counter()
    for text in dropped.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(text)
            if row["card"] == step.what:
                counts[row["filter"]] += 1
    lines += [f"  dropped by {name}: {count}" for name, count in counts.most_common()]
    return lines


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
