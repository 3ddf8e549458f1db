"""Owns what a run of bench_engine.py does in its own process; prints nothing."""

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import rivals
from sameness import SLOTS, measure_sameness
from workload import Job, bench_job, floor, make_job, measure_device, random_base, resident, sampling

BEGAN = time.perf_counter()
REPOSITORY = Path(__file__).parent.parent
ALONE = 8
"""Candidates that are drawn one at a time; the whole job would take an hour."""
CONTINUOUS = 24
"""Cards for continuous batching."""
CPU_SLOTS = 64
"""Candidates at once on two cores, for `generate` and the engine alike."""
CANDIDATES = 16
SHORT = 8
"""Tokens of a candidate where it is memory and bookkeeping that are measured."""


def measure_one(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the first candidates one at a time."""
    sequences = bench_job(tiny=args.tiny).sequences()[:ALONE]
    base = random_base(tiny=args.tiny)
    seconds = rivals.generate_batches(base, sequences, sampling(tiny=args.tiny), 1)
    return {"what": f"{ALONE} candidates", "tokens": sum(n for _, n in sequences), "seconds": seconds}


def measure_generate(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the first cards in large batches."""
    job = bench_job(tiny=args.tiny).part(args.cards)
    base = random_base(tiny=args.tiny)
    seconds = rivals.generate_batches(base, job.sequences(), sampling(tiny=args.tiny), rivals.BATCH)
    return {"what": f"{len(job.prompts)} cards", "tokens": job.total, "seconds": seconds}


def measure_continuous(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the first cards with continuous batching."""
    job = bench_job(tiny=args.tiny).part(CONTINUOUS)
    base = random_base(tiny=args.tiny)
    seconds, start = rivals.generate_continuously(base, job.sequences(), sampling(tiny=args.tiny))
    what = f"{len(job.prompts)} cards; its cache takes what memory is free"
    return {"what": what, "tokens": job.total, "seconds": seconds, "start": start}


def measure_engine(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the whole job with the engine, once to start it up and then as often as asked for."""
    from gonbuild.batching import draw

    job = bench_job(tiny=args.tiny)
    loading = time.perf_counter()
    base = saved_base(args) if args.run == "nf4" else random_base(tiny=args.tiny)
    loaded = time.perf_counter()
    tasks = job.tasks()
    # A card in front whose candidates have one token each is handed out as soon as the first step is done.
    tasks.insert(0, replace(tasks[0], card="first", lengths=(1,) * tasks[0].last))

    def run() -> tuple[float, float, str]:
        began = time.perf_counter()
        drawn = draw(base, tasks, sampling(tiny=args.tiny), slots=args.slots, keyed=args.run != "free")
        first = 0.0
        sha = hashlib.sha256()
        for task, candidates in drawn:
            first = first or time.perf_counter() - began
            lengths = tuple(len(candidate.ids) for candidate in candidates)
            if lengths != task.lengths:
                sys.exit(f"{task.card}: candidates of {lengths} tokens. Wanted {task.lengths}")
            sha.update(str([candidate.ids for candidate in candidates]).encode())
        return time.perf_counter() - began, first, sha.hexdigest()

    start, *runs = [run() for _ in range(args.repeats + 1)]
    seconds = statistics.median(r[0] for r in runs)
    what = f"{len(job.prompts)} cards, {args.slots or 'its own choice of'} slots, {len(runs)} times"
    return {
        "what": what, "tokens": job.total, "seconds": seconds,
        "all": [r[0] for r in runs], "start": max(0.0, start[0] - seconds), "loaded": loaded - loading,
        "first": loading - BEGAN + start[1], "same": len({start[2], *(r[2] for r in runs)}) == 1,
    }  # fmt: skip


def saved_base(args: argparse.Namespace) -> Any:
    """Loads the base of bench_training.py in NF4 (a tiny one as it is), made where it is missing."""
    from bench_training import make_base, settings

    from gonbuild.base import BaseFiles
    from gonbuild.model import load_base

    if not (args.base / "config.json").is_file():
        make_base(args.base, tiny=args.tiny)
    return load_base(BaseFiles(args.base.name, args.base), settings(tiny=args.tiny).model, 0)


def measure_floor(args: argparse.Namespace) -> dict[str, Any]:
    """Measures copy and product, and works out what they let a step do."""
    device = measure_device(tiny=args.tiny)
    job = bench_job(tiny=args.tiny)
    return {
        "device": device,
        "floors": [floor(job, n, device, tiny=args.tiny) for n in sorted({args.slots, *SLOTS} - {0})],
    }


def measure_same(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the same candidates in several neighbourhoods."""
    return {"rows": measure_sameness(random_base(tiny=args.tiny), args.slots, tiny=args.tiny)}


def measure_cpu(args: argparse.Namespace) -> dict[str, Any]:
    """Draws candidates of the game's cards with the embedded base, on two cores where the system can bind them."""
    cores = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_setaffinity") else []
    if cores:
        os.sched_setaffinity(0, cores)
    from gonbuild.base import locate_base
    from gonbuild.model import load_base
    from gonbuild.pipeline import load_project

    ws = load_project(REPOSITORY, "nano").workspace()
    base = load_base(locate_base(ws.settings.model, REPOSITORY), ws.settings.model, 2)
    cards = ws.library.cards[: args.count]
    prompts = [base.encode(ws.templates.prompt(card).text) for card in cards]
    began = time.perf_counter()
    if args.run == "cpu-generate":
        tokens = rivals.generate_cards(base, prompts, ws.settings.sampling, CANDIDATES, CPU_SLOTS)
    else:
        from gonbuild.batching import Task, draw

        shared = next(at for at, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
        tasks = [Task(c.id, tuple(p), 0, CANDIDATES, shared=shared) for c, p in zip(cards, prompts, strict=True)]
        drawn = draw(base, tasks, ws.settings.sampling, slots=CPU_SLOTS)
        tokens = sum(len(candidate.ids) for _, candidates in drawn for candidate in candidates)
    return {"tokens": tokens, "seconds": time.perf_counter() - began, "candidates": len(cards) * CANDIDATES}


def measure_growth(args: argparse.Namespace) -> dict[str, Any]:
    """Draws many cards, keeping none, on a base so small that what is left is the engine's own work."""
    from tiny import write_tiny_base

    from gonbuild.base import BaseFiles
    from gonbuild.batching import draw
    from gonbuild.model import load_base
    from gonbuild.settings import parse_settings

    with tempfile.TemporaryDirectory() as folder:
        files = BaseFiles("tiny", write_tiny_base(Path(folder), width=16, layers=1))
        base = load_base(files, parse_settings({}).model, 2)
    prompts = make_job(args.count, 1, base.model.config.vocab_size).prompts
    tasks = Job(prompts, [[SHORT] * CANDIDATES] * args.count).tasks()
    began = time.perf_counter()
    early = 0.0
    for _ in draw(base, tasks, sampling(tiny=True)):
        early = early or resident()
    return {"cards": args.count, "seconds": time.perf_counter() - began, "growth": resident() - early}


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "one": measure_one, "generate": measure_generate, "continuous": measure_continuous, "keyed": measure_engine,
    "free": measure_engine, "nf4": measure_engine, "floor": measure_floor, "same": measure_same,
    "cpu-generate": measure_cpu, "cpu-engine": measure_cpu, "growth": measure_growth,
}  # fmt: skip


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Does the run that `args.run` names, and adds the most memory that this process held, GiB."""
    result = MEASURES[args.run](args)
    import torch

    gpu = torch.cuda.is_initialized()
    return {
        **result,
        "rss": resident(),
        "allocated": torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0,
        "reserved": torch.cuda.max_memory_reserved() / 2**30 if gpu else 0.0,
    }
