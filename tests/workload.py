"""Owns the job that engines are timed on, the random bases that run it and the floor of a step; times no engine.

The job: prompts of 160 tokens that share their first 96, candidates for each with lengths drawn once from N(56, 16),
rounded and clamped to 20..100 tokens. Lengths are forced, so that every engine writes the same number of tokens.
"""

import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

PROMPT, SHARED, LONGEST = 160, 96, 100
CARDS, CANDIDATES, TOTAL = 240, 16, 215_134
WORDS = 32000
"""Of Mistral-7B's vocabulary; the ids of the job are drawn from it whatever the base."""
MISTRAL = {
    "vocab_size": WORDS, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Prompts as token ids, and the length in tokens of each of their candidates."""

    prompts: list[list[int]]
    lengths: list[list[int]]

    @property
    def total(self) -> int:
        """Tokens that the candidates have in all."""
        return sum(map(sum, self.lengths))

    def part(self, cards: int, candidates: int = CANDIDATES) -> "Job":
        """Returns the first candidates of the first cards."""
        return Job(self.prompts[:cards], [row[:candidates] for row in self.lengths[:cards]])

    def sequences(self) -> list[tuple[list[int], int]]:
        """Returns the prompt and the length of each candidate, card by card."""
        return [(prompt, length) for prompt, row in zip(self.prompts, self.lengths, strict=True) for length in row]

    def tasks(self) -> list[Any]:
        """Returns the job as the engine takes it."""
        from gonbuild.batching import Task

        pairs = zip(self.prompts, self.lengths, strict=True)
        return [
            Task(f"card-{n}", tuple(prompt), 0, len(row), shared=SHARED, lengths=tuple(row))
            for n, (prompt, row) in enumerate(pairs)
        ]


def make_job(cards: int = CARDS, candidates: int = CANDIDATES, words: int = WORDS) -> Job:
    """Draws the job with seed 0; a vocabulary of fewer `words` folds the ids and moves no length."""
    r = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [3 + (r.randrange(3, WORDS) - 3) % (words - 3) for _ in range(count)]

    shared = tokens(SHARED)
    prompts = [[1, *shared[1:], *tokens(PROMPT - SHARED)] for _ in range(cards)]
    lengths = [[max(20, min(LONGEST, round(r.gauss(56, 16)))) for _ in range(candidates)] for _ in range(cards)]
    job = Job(prompts, lengths)
    if (cards, candidates) == (CARDS, CANDIDATES) and job.total != TOTAL:
        sys.exit(f"the job has {job.total} tokens. Wanted {TOTAL}: figures of another job cannot be compared")
    return job


def bench_job(*, tiny: bool) -> Job:
    """Returns the whole job, or one of 6 x 4 candidates for the tiny base."""
    return make_job(words=TINY["vocab_size"]).part(6, 4) if tiny else make_job()


def sampling(*, tiny: bool) -> Any:
    """Returns how candidates are drawn: as the profile for Mistral-7B says, and never longer than the job's longest."""
    from gonbuild.settings import parse_settings

    settings = parse_settings({"profile": "nano" if tiny else "mistral-7b"}).sampling
    return settings.model_copy(update={"temperature": 0.7, "max_new_tokens": LONGEST})


def random_base(*, tiny: bool) -> Any:
    """Makes a base in memory: Mistral-7B's shape in bfloat16 on the GPU, or a tiny one in float32 on the CPU.

    Neither speed nor memory depends on the weights' values; the tokenizer is a stand-in that nobody reads with.
    """
    from tiny import write_tiny_base

    from gonbuild.base import BaseFiles
    from gonbuild.model import Base, load_reader  # before torch: it sets the environment that torch reads

    # isort: split
    import torch
    from transformers import AutoModelForCausalLM, MistralConfig

    with tempfile.TemporaryDirectory() as folder:
        reader = load_reader(BaseFiles("random", Path(folder)), write_tiny_base(Path(folder)))
    device, dtype = torch.device("cpu") if tiny else torch.device("cuda", 0), torch.float32 if tiny else torch.bfloat16
    config = MistralConfig(**(TINY if tiny else MISTRAL), sliding_window=None, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.eval().requires_grad_(False)
    if not tiny:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    return Base(reader.tokenizer, reader.files, config.max_position_embeddings, model, device, dtype)


def resident() -> float:
    """Returns the most memory that this process held so far on the CPU's side, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def measure_device(*, tiny: bool) -> dict[str, float]:
    """Measures what the device gives: bytes per second of a copy, read and written, and operations of a product."""
    import torch

    device, dtype = ("cpu", torch.float32) if tiny else ("cuda", torch.bfloat16)
    width, count = (1024, 2**24) if tiny else (8192, 2**30)
    a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.zeros(count, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copy = _seconds(lambda: target.copy_(source))
    multiply = _seconds(lambda: torch.mm(a, b, out=product))
    return {"bandwidth": 2 * source.nbytes / copy, "rate": 2 * width**3 / multiply}


def _seconds(work: Callable[[], object], times: int = 10) -> float:
    """Returns the mean seconds of a piece of work after three that warm it up."""
    import torch

    def finish() -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    for _ in range(3):
        work()
    finish()
    began = time.perf_counter()
    for _ in range(times):
        work()
    finish()
    return (time.perf_counter() - began) / times


def floor(job: Job, slots: int, device: dict[str, float], *, tiny: bool) -> dict[str, float]:
    """Returns what a step for `slots` candidates takes at least, in seconds, and what the whole job then does.

    A step reads every weight once and each slot's keys and values, at the mean length they have during the job; an
    engine whose slots read what they share once can be faster where the bytes decide. Prompts are read once per card.
    """
    from gonbuild.memory import Shape

    c, width = (TINY, 4) if tiny else (MISTRAL, 2)
    head = c["hidden_size"] // c["num_attention_heads"]
    layers, keys = c["num_hidden_layers"], c["num_key_value_heads"] * head
    shape = Shape(c["hidden_size"], c["intermediate_size"], layers, c["hidden_size"], keys, c["vocab_size"], tied=False)
    weights = shape.linear + shape.hidden * shape.vocabulary
    # a token of a candidate sees its prompt and what came before it
    context = sum(n * (PROMPT + (n + 1) / 2) for n in chain(*job.lengths)) / job.total
    cache = slots * context * 2 * layers * keys * width
    operations = slots * (2 * weights + 4 * layers * shape.queries * context)
    by_bytes = (weights * width + cache) / device["bandwidth"]
    by_operations = operations / device["rate"]
    step = max(by_bytes, by_operations)
    prompts = len(job.prompts) * PROMPT * 2 * shape.linear / device["rate"]
    drawn = job.total - sum(map(len, job.lengths))  # a candidate's first token comes from reading its prompt
    return {
        "slots": slots, "weights": weights * width, "cache": cache, "operations": operations, "by_bytes": by_bytes,
        "by_operations": by_operations, "step": step, "speed": slots / step, "prompts": prompts,
        "whole": job.total / (drawn * step / slots + prompts),
    }  # fmt: skip
