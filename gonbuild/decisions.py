"""Owns how a decision is put into the text of `cards/reviews.yaml`, and taken out; reads and writes no file.

A decision is one line, in the order of card and text, so that two branches that add some merge. Lines that a person
wrote stay as they are, comments too: only what a new decision contradicts goes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gonbuild.errors import InputError, Problem
from gonbuild.language import fold
from gonbuild.reviews import APPROVE, BAN, LIMITS, RATING, REVIEWS, SLOTS, Decision, parse_reviews
from gonbuild.sources import clean, fault, short

HEAD = b"# What people decided on the stories, a line each: `gonbuild review` writes it, and so may you.\n"
_ORDER = ("slot", "effect", "replaces", "reason", "by", "scores")


def decision_line(decision: Decision) -> str:
    """Returns a decision as one line of the file, without its line feed."""
    told = {name: value for name in _ORDER if (value := getattr(decision, name))}
    pairs = [f"card: {decision.card}", f"{decision.kind}: {_quoted(decision.text)}"]
    return f"- {{{', '.join([*pairs, *(f'{name}: {_value(value)}' for name, value in told.items())])}}}"


def _value(value: int | str | Mapping[str, int]) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    return f"{{{', '.join(f'{name}: {score}' for name, score in value.items())}}}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # as YAML's double quotes want it: nothing invisible gets here


def checked(decision: Decision) -> Decision:
    """Returns a decision with its texts cleaned: NFC, on one line.

    Raises:
        InputError: a text is empty where one is needed, or holds what may not reach a model or a reader.
    """
    texts: dict[str, Any] = {name: clean(getattr(decision, name)) for name in LIMITS}
    problems = [Problem("", f"the {name} {wrong}") for name, text in texts.items() if (wrong := fault(text))]
    if not texts["text"]:
        problems.append(Problem("", f"a {decision.kind} has no text", "Wanted one or two sentences."))
    if decision.kind == BAN and not texts["reason"]:
        problems.append(Problem("", "a ban has no reason", "Wanted a few words: the next reader asks why."))
    problems += [
        Problem(
            "", f"the {'name' if name == 'by' else name} has {len(texts[name])} characters", f"Wanted at most {most}."
        )
        for name, most in LIMITS.items()
        if len(texts[name]) > most
    ]
    if decision.ships and not 1 <= decision.slot <= SLOTS:
        problems.append(Problem("", f"no slot {decision.slot}", f"Wanted one from 1 to {SLOTS}."))
    if problems:
        raise InputError(problems)
    return replace(decision, line=0, **texts)


def add_decision(data: bytes, decision: Decision) -> tuple[bytes, list[Decision]]:
    """Returns the file's bytes with a decision in it, and those it took the place of.

    A pin takes the place of another one of its slot or its text, and of bans of its text; a ban that of pins and
    approvals of its text and of an earlier ban; an approval or rating that of the same person's earlier one.

    Raises:
        InputError: the file has mistakes, or cannot be written without a change of other decisions.
    """
    decision = checked(decision)
    return _rewritten(data, lambda d: _gives_way(d, decision), decision)


def remove_decisions(data: bytes, gone: Callable[[Decision], bool]) -> tuple[bytes, list[Decision]]:
    """Returns the file's bytes without some decisions, and these; raises as `add_decision`."""
    return _rewritten(data, gone, None)


def _gives_way(earlier: Decision, new: Decision) -> bool:
    if earlier.card != new.card:
        return False
    same = fold(earlier.text) == fold(new.text)
    if new.ships:
        return (earlier.ships and (same or earlier.slot == new.slot)) or (same and earlier.kind == BAN)
    if new.kind == BAN:
        return same and earlier.kind != RATING
    if new.kind == APPROVE and earlier.kind == BAN:
        return same
    return same and earlier.kind == new.kind and earlier.by == new.by


def _rewritten(data: bytes, gone: Callable[[Decision], bool], new: Decision | None) -> tuple[bytes, list[Decision]]:
    reviews, problems = parse_reviews(data)
    if problems:
        raise InputError(problems)
    taken = [d for d in reviews.decisions if d != new and gone(d)]
    kept = [d for d in reviews.decisions if d not in taken]
    if new in kept:
        new = None
    if new is None and not taken:
        return data, []
    lines = data.decode("utf-8").splitlines(keepends=True) or [HEAD.decode()]
    starts = [_start(lines, d.line) for d in reviews.decisions]
    spans = [
        range(start, _last(lines, start, end) + 1)
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=False)
    ]
    drop = {n for d, span in zip(reviews.decisions, spans, strict=True) if d in taken for n in span}
    added: dict[int, str] = {}
    if new is not None:
        after = (span.start for d, span in zip(reviews.decisions, spans, strict=True) if d.key > new.key)
        added[next(after, spans[-1].stop if spans else len(lines))] = decision_line(new) + "\n"
    out = ""
    for number, line in enumerate([*lines, ""]):
        if number in added:
            out += ("\n" if out and not out.endswith("\n") else "") + added[number]
        out += line if number not in drop else ""
    written = out.encode()
    found, wrong = parse_reviews(written)
    if wrong or sorted(found.decisions, key=_whole) != sorted([*kept, *([new] if new else [])], key=_whole):
        what = "cannot take this decision without a change of another one"
        raise InputError(Problem(REVIEWS, what, "Put each decision on a line of its own."))
    return written, taken


def _whole(decision: Decision) -> tuple[object, ...]:
    return (*decision.key, decision.slot, decision.effect, decision.replaces, decision.reason, str(decision.scores))


def _start(lines: Sequence[str], line: int) -> int:
    """Returns the index of the line with a decision's dash."""
    at = line - 1
    while at and not lines[at].lstrip("\ufeff").lstrip().startswith("-"):
        at -= 1
    return at


def _last(lines: Sequence[str], start: int, end: int) -> int:
    """Returns the index of a decision's last line; comments and blank lines before the next belong to that one."""
    last = end - 1
    while last > start and (not lines[last].strip() or lines[last].lstrip().startswith("#")):
        last -= 1
    return last


def told(decision: Decision) -> str:
    """Puts a decision into words, for a line on a terminal."""
    place = f".{decision.slot}" if decision.ships else ""
    why = f" ({decision.reason})" if decision.reason else ""
    marks = " " + " ".join(f"{name}={score}" for name, score in decision.scores.items()) if decision.scores else ""
    who = f" by {decision.by}" if decision.by else ""
    return f"{decision.kind} {decision.card}{place}{marks}{who}: {short(decision.text)}{why}"
