"""Owns whether a candidate is the same whatever is drawn beside it: the runs to compare and what differs in them."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from workload import Job, bench_job, make_job, sampling

SLOTS = (256, 512, 768, 1024)
TINY_SLOTS = (1, 3, 8, 64)
BESIDE = 3
"""Candidates that each card gets beside its own in one of the runs."""

Run = dict[tuple[str, int], Any]


def measure_sameness(base: Any, slots: int, *, tiny: bool) -> list[dict[str, Any]]:
    """Draws cards in several neighbourhoods and with several numbers of slots; returns a row for each but the first."""
    settings = sampling(tiny=tiny)
    words = base.model.config.vocab_size
    jobs = [make_job(20 if tiny else 1000, 1, words), bench_job(tiny=tiny).part(60)]
    rows = []
    for job in jobs:
        name = f"{len(job.prompts)} x {len(job.lengths[0])}"
        runs = [(what, draw_all(base, tasks, settings, slots)) for what, tasks in neighbourhoods(job)]
        rows += [{"job": name, "what": what, **differences(runs[0][1], run)} for what, run in runs[1:]]
    job = make_job(12 if tiny else 300, 4, words)
    counts = TINY_SLOTS if tiny else SLOTS
    runs = [(f"{n} slots, {counts[0]} before", draw_all(base, job.tasks(), settings, n)) for n in counts]
    name = f"{len(job.prompts)} x 4"
    return rows + [{"job": name, "what": what, **differences(runs[0][1], run)} for what, run in runs[1:]]


def neighbourhoods(job: Job) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yields names and tasks of runs that share candidates; the first is what the others are compared with."""
    tasks = job.tasks()
    half = tasks[: len(tasks) // 2]
    more = Job(job.prompts, [row + (row * BESIDE)[:BESIDE] for row in job.lengths])
    yield "as given", tasks
    yield "once more", tasks
    yield "reversed", tasks[::-1]
    yield "the first half alone, shuffled", random.Random(1).sample(half, len(half))
    yield f"with {BESIDE} more candidates of each card", more.tasks()


def draw_all(base: Any, tasks: Sequence[Any], settings: Any, slots: int) -> Run:
    """Draws tasks and returns each candidate by card and index."""
    from gonbuild.batching import draw

    return {
        (task.card, index): candidate
        for task, drawn in draw(base, tasks, settings, slots=slots)
        for index, candidate in enumerate(drawn, task.first)
    }


def differences(first: Run, other: Run) -> dict[str, Any]:
    """Counts what differs in the candidates that both runs have, position by position.

    `worst` is the largest difference of two log-probabilities, nats, up to a candidate's first token that differs:
    behind it they tell of other texts.
    """
    both = first.keys() & other.keys()
    tokens = differ = logprobs = candidates = 0
    worst = 0.0
    for key in both:
        a, b = first[key], other[key]
        unequal = [x != y for x, y in zip(a.ids, b.ids, strict=False)]
        same = unequal.index(True) if any(unequal) else len(unequal)
        gaps = [abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=False)]
        tokens += len(a.ids)
        differ += sum(unequal) + abs(len(a.ids) - len(b.ids))
        logprobs += sum(gap != 0 for gap in gaps)
        candidates += a.ids != b.ids
        worst = max([worst, *gaps[:same]])
    return {
        "compared": len(both), "tokens": tokens, "candidates": candidates, "differ": differ, "logprobs": logprobs,
        "worst": worst,
    }  # fmt: skip
