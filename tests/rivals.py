"""Owns what the engine is measured against: transformers' `generate` and its continuous batching, each at its best."""

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

BATCH = 768
"""Candidates in a batch of `generate`."""


def sampling_config(settings: Any, **others: Any) -> Any:
    """Returns the settings as transformers names them; without an eos token in `others` nothing ends by itself."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty, **{"pad_token_id": 0, "eos_token_id": None, **others},
    )  # fmt: skip


def generate_batches(base: Any, sequences: Sequence[tuple[list[int], int]], settings: Any, batch: int) -> float:
    """Draws candidates with `generate` in batches, each as long as its longest; returns seconds.

    A short batch that is not counted comes first.
    """
    import torch

    def draw(part: Sequence[tuple[list[int], int]], longest: int) -> None:
        ids = torch.tensor([prompt for prompt, _ in part], device=base.device)
        config = sampling_config(settings, max_new_tokens=longest)
        out = base.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        out[:, -1].tolist()

    draw(sequences[:2], 4)
    began = time.perf_counter()
    for start in range(0, len(sequences), batch):
        part = sequences[start : start + batch]
        draw(part, max(length for _, length in part))
    return time.perf_counter() - began


def generate_continuously(base: Any, sequences: Sequence[tuple[list[int], int]], settings: Any) -> tuple[float, float]:
    """Draws candidates with continuous batching, each as long as it shall be; returns seconds and those of the start.

    Raises:
        RuntimeError: a request failed or came out too short, or the library's thread ended before it was done.
    """
    from transformers import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.utils import WorkloadHints

    options: dict[str, Any] = {"seed": 0}
    if base.device.type == "cpu":
        options["max_memory_percent"] = 0.02  # else it takes nearly all of the machine's
    if "auto_switch_to_flash" in {field.name for field in fields(ContinuousBatchingConfig)}:
        options["auto_switch_to_flash"] = False
    else:  # 5.17 has no such field: there this name keeps it from looking for flash attention
        base.model.set_attn_implementation("paged|sdpa")
    longest = max(length for _, length in sequences)
    hints = WorkloadHints(max(len(prompt) for prompt, _ in sequences), longest, len(sequences))
    began = time.perf_counter()
    with base.model.continuous_batching_context_manager(
        generation_config=sampling_config(settings, max_new_tokens=longest, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(**options),
        workload_hints=hints,
        timeout=5,
    ) as manager:
        started = time.perf_counter()
        wanted = {manager.add_request(prompt, max_new_tokens=length): length for prompt, length in sequences}
        for _ in sequences:
            result = None
            while result is None:
                result = manager.get_result(timeout=1)
                if result is None and not manager.is_running():
                    raise RuntimeError(f"its thread ended: {manager.background_thread_status.fatal_error}")
            if result.error or len(result.generated_tokens) != wanted[result.request_id]:
                what = f"{len(result.generated_tokens)} of {wanted[result.request_id]} tokens"
                raise RuntimeError(f"request {result.request_id}: {result.error or what}")
        ended = time.perf_counter()
    return ended - started, started - began


def generate_cards(base: Any, prompts: Sequence[Sequence[int]], settings: Any, count: int, batch: int) -> int:
    """Draws `count` candidates of each card with `generate`; returns tokens up to each one's end."""
    import torch

    config = sampling_config(
        settings, max_new_tokens=settings.max_new_tokens, num_return_sequences=count,
        eos_token_id=base.tokenizer.eos_token_id, pad_token_id=base.tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    tokens = 0
    at_once = max(1, batch // count)
    for start in range(0, len(prompts), at_once):
        part = {"input_ids": [list(prompt) for prompt in prompts[start : start + at_once]]}
        padded = base.tokenizer.pad(part, padding_side="left", return_tensors="pt").to(base.device)
        out = base.model.generate(**padded, generation_config=config)[:, padded["input_ids"].shape[1] :]
        ended = out == config.eos_token_id
        lengths = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, out.shape[1])
        tokens += int(lengths.sum())
    return tokens
