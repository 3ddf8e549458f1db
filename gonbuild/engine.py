"""Owns drawing candidates and scoring texts with a loaded base; knows no cards beyond their ids, and keeps nothing."""

from collections.abc import Iterator, Sequence

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
import torch

from gonbuild.batching import Task, draw
from gonbuild.decoder import decoder_of
from gonbuild.endings import Endings
from gonbuild.errors import InputError, Problem
from gonbuild.records import Candidate, Progress, Request, quiet
from gonbuild.settings import SamplingSettings


def generate(
    base: Base,
    requests: Sequence[Request],
    settings: SamplingSettings,
    progress: Progress = quiet,
    *,
    slots: int = 0,
    without_card: bool = True,
) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
    """Yields each request with its candidates, in order of their index.

    Each is sampled from the model's processed distribution by keyed Gumbel-max: the same base, prompt, settings, card
    id and index give the same candidate, whatever else is asked for. `slots` is as for `draw`; `without_card` has each
    scored without its card, which takes half as long as drawing it.

    Raises:
        InputError: prompts that leave no room for `max_new_tokens`; all of them, before the first is drawn.
        MachineError: memory is too small for a single slot, or runs out twice.
    """
    tasks = [_task(base, request) for request in requests]
    _check_room(base, tasks, settings.max_new_tokens)
    progress("generating", 0, len(requests))
    endings = Endings(base.tokenizer)
    for done, (task, drawn) in enumerate(draw(base, tasks, settings, slots=slots), 1):
        request = requests[done - 1]
        without: Sequence[float | None] = [None] * len(drawn)
        if without_card:
            without = score(base, base.encode(request.prompt.without_card), [d.ids for d in drawn])
        yield (
            request,
            tuple(
                Candidate(task.card, index, text, len(d.ids), sum(d.logprobs), logprob, d.ended and clean)
                for index, d, logprob in zip(range(task.first, task.last), drawn, without, strict=True)
                for text, clean in [endings.text(d.ids)]
            ),
        )
        progress("generating", done, len(requests))


def _task(base: Base, request: Request) -> Task:
    prompt, without = base.encode(request.prompt.text), base.encode(request.prompt.without_card)
    shared = next((at for at, (a, b) in enumerate(zip(prompt, without, strict=False)) if a != b), len(without))
    return Task(request.card, prompt, request.first, request.last, shared)


@torch.inference_mode()
def score(base: Base, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> list[float]:
    """Returns log p(completion | prompt) in nats for token ids, summed, at temperature 1: one batch, padded right."""
    decoder, longest = decoder_of(base.model), max(map(len, completions))
    rows = [[*completion, *[base.tokenizer.pad_token_id] * (longest - len(completion))] for completion in completions]
    ids = torch.tensor(rows, device=base.device)  # (n, longest)
    hidden, read = decoder.read(torch.tensor([list(prompt)], device=base.device))
    # What stands right of a token cannot reach it, so the padding needs no mask.
    parts = [hidden[:, -1:].expand(len(rows), -1, -1)]
    if longest > 1:
        parts.append(decoder.read(ids[:, :-1], read)[0])
    logits = decoder.logits(torch.cat(parts, 1))
    logprobs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0].double()
    return [sum(logprobs[row, : len(c)].tolist()) for row, c in enumerate(completions)]


def _check_room(base: Base, tasks: Sequence[Task], new: int) -> None:
    room = base.context - new
    wanted = f"Wanted at most {room}: {base.files.name} takes {base.context}, sampling.max_new_tokens {new} of them."
    problems = [
        Problem("", f"card '{task.card}': its prompt has {len(task.prompt)} tokens", wanted)
        for task in tasks
        if len(task.prompt) + new > base.context
    ]
    if problems:
        raise InputError(problems)
