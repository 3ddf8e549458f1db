"""Owns drawing candidates and scoring texts with a loaded base; knows no cards beyond their ids, and keeps nothing.

A batch holds the candidates of one card, so that what a card gets depends on its own request alone.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gonbuild.model import TAGS, Base  # before the libraries: it sets the environment that they read

# isort: split
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from gonbuild.errors import InputError, Problem
from gonbuild.noise import gumbel, key_of
from gonbuild.records import END, Candidate, Progress, Request, quiet
from gonbuild.settings import SamplingSettings

TAIL = 16
"""Tokens at the end of a text in which the end tag is looked for, where it is no token of its own."""


@dataclass(frozen=True)
class Drawn:
    """The token ids of one candidate, the end included, with the sum of their log-probabilities in nats."""

    ids: list[int]
    logprob: float
    ended: bool


class Room(CacheLayerMixin):  # type: ignore[misc]  # the library has no types here
    """One layer's keys and values in memory taken once; growing by concatenation would copy them at every step."""

    is_sliding = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.length = size, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        n, heads, _, width = key_states.shape
        self.keys, self.values = (x.new_empty(n, heads, self.size, width) for x in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, before : self.length] = key_states
        self.values[:, :, before : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.keys, self.values = (x.repeat_interleave(repeats, dim=0) for x in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.size


def generate(
    base: Base, requests: Sequence[Request], settings: SamplingSettings, progress: Progress = quiet
) -> Iterator[tuple[Request, tuple[Candidate, ...]]]:
    """Yields each request with its candidates, in order of their index.

    Each is sampled from the model's processed distribution by keyed Gumbel-max: the same base, prompt, settings, card
    id and index give the same candidate, whatever else is asked for.

    Raises:
        InputError: prompts that leave no room for `max_new_tokens`; all of them, before the first is drawn.
    """
    prompts = [base.encode(request.prompt.text) for request in requests]
    _check_room(base, requests, prompts, settings.max_new_tokens)
    for done, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        progress("generating", done, len(requests))
        drawn = draw(base, prompt, request, settings)
        without = score(base, base.encode(request.prompt.without_card), [d.ids for d in drawn])
        yield (
            request,
            tuple(
                Candidate(request.card, index, text, len(d.ids), d.logprob, logprob, d.ended and clean)
                for index, d, logprob in zip(range(request.first, request.last), drawn, without, strict=True)
                for text, clean in [_text(base, d.ids)]
            ),
        )
    progress("generating", len(requests), len(requests))


@torch.inference_mode()
def draw(base: Base, prompt: Sequence[int], request: Request, settings: SamplingSettings) -> list[Drawn]:
    """Draws candidates `first` to `last - 1` of a request after a prompt's token ids.

    A candidate that has ended stays in the batch until all have: the shape of a step depends on nothing but their
    number.
    """
    n, device = request.last - request.first, base.device
    key = key_of(request.card, settings.seed)
    indices = torch.arange(request.first, request.last, device=device)[:, None]
    cache = _cache(base, len(prompt) + settings.max_new_tokens)
    logits = _forward(base, torch.tensor([list(prompt)], device=device), cache, len(prompt), last=1)[:, -1]
    cache.batch_repeat_interleave(n)
    logits = logits.expand(n, -1)
    seen = torch.tensor([list(prompt)], device=device).expand(n, -1)
    ends = _end_ids(base)
    rows: list[list[int]] = [[] for _ in range(n)]
    logprobs = torch.zeros(n, settings.max_new_tokens, dtype=torch.float64, device=device)
    live = dict.fromkeys(range(n))
    for step in range(settings.max_new_tokens):
        tokens = choose(logits, seen, settings, key, indices, step)  # (n, 1)
        logprobs[:, step] = logits.log_softmax(-1).gather(-1, tokens)[:, 0]
        for row, token in enumerate(tokens[:, 0].tolist()):
            if row in live:
                rows[row].append(token)
                if _has_ended(base, rows[row], ends):
                    del live[row]
        if not live or step + 1 == settings.max_new_tokens:
            break
        if settings.repetition_penalty != 1:
            seen = torch.cat((seen, tokens), dim=-1)
        logits = _forward(base, tokens, cache, len(prompt) + step + 1, last=1)[:, -1]
    return [Drawn(ids, sum(logprobs[row, : len(ids)].tolist()), row not in live) for row, ids in enumerate(rows)]


def choose(
    logits: Tensor, seen: Tensor, settings: SamplingSettings, key: tuple[int, int], indices: Tensor, step: int
) -> Tensor:
    """Returns the token that each candidate takes, (n, 1): the largest of processed log-probability plus noise.

    logits: (n, vocabulary) float32, seen: (n, length) ids that the repetition penalty counts, indices: (n, 1).
    """
    scores, tokens = keep_likely(logits, seen, settings)
    best = (scores + gumbel(key, indices, step, tokens)).argmax(-1, keepdim=True)
    return tokens.gather(-1, best)


def keep_likely(logits: Tensor, seen: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Returns the processed scores of the likeliest tokens, float64, -inf where top-p drops one, and their ids: (n, k).

    Repetition penalty, temperature, top-k and top-p in transformers' order and meaning.
    """
    if settings.repetition_penalty != 1:
        found = logits.gather(-1, seen)
        penalty = settings.repetition_penalty
        logits = logits.scatter(-1, seen, torch.where(found < 0, found * penalty, found / penalty))
    count = min(settings.top_k or logits.shape[-1], logits.shape[-1])
    scores, tokens = logits.topk(count, sorted=True)
    scores = scores.double() / settings.temperature
    if settings.top_p < 1:
        shares = scores.softmax(-1)
        before = shares.cumsum(-1) - shares
        scores = scores.masked_fill(before >= settings.top_p, -torch.inf)
    return scores, tokens


@torch.inference_mode()
def score(base: Base, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> list[float]:
    """Returns log p(completion | prompt) in nats for token ids, summed, at temperature 1: one batch, padded right."""
    n, longest = len(completions), max(map(len, completions))
    ids = torch.full((n, longest), base.tokenizer.pad_token_id)
    for row, completion in enumerate(completions):
        ids[row, : len(completion)] = torch.tensor(list(completion))
    ids = ids.to(base.device)
    cache = _cache(base, len(prompt) + longest)
    first = _forward(base, torch.tensor([list(prompt)], device=base.device), cache, len(prompt), last=1)
    cache.batch_repeat_interleave(n)
    # What stands right of a token cannot reach it, so the padding needs no mask.
    logits = torch.cat((first.expand(n, -1, -1), _forward(base, ids[:, :-1], cache, len(prompt) + longest - 1)), dim=1)
    logprobs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0].double()
    return [sum(logprobs[row, : len(c)].tolist()) for row, c in enumerate(completions)]


def _cache(base: Base, size: int) -> Cache:
    return Cache(layers=[Room(size) for _ in range(base.model.config.num_hidden_layers)])


def _forward(base: Base, ids: Tensor, cache: Cache, length: int, last: int = 0) -> Tensor:
    """Runs ids (n, t) behind the cache; `length` counts the positions then filled. Returns float32 logits (n, t, v)."""
    if ids.shape[1] == 0:
        return torch.empty(ids.shape[0], 0, base.model.config.vocab_size, device=base.device)
    positions = torch.arange(length - ids.shape[1], length, device=base.device)[None]
    out = base.model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=last)
    return out.logits.float()  # type: ignore[no-any-return]  # the model is Any


def _check_room(base: Base, requests: Sequence[Request], prompts: Sequence[Sequence[int]], new: int) -> None:
    room = base.context - new
    wanted = f"Wanted at most {room}: {base.files.name} takes {base.context}, sampling.max_new_tokens {new} of them."
    problems = [
        Problem("", f"card '{r.card}': its prompt has {len(p)} tokens", wanted)
        for r, p in zip(requests, prompts, strict=True)
        if len(p) + new > base.context
    ]
    if problems:
        raise InputError(problems)


def _end_ids(base: Base) -> frozenset[int]:
    """Returns the tokens that end a text: eos, and the end tag where it is a token of its own."""
    tag = base.tokenizer(END, add_special_tokens=False)["input_ids"]
    return frozenset([base.tokenizer.eos_token_id, *(tag if len(tag) == 1 else ())])


def _has_ended(base: Base, ids: list[int], ends: frozenset[int]) -> bool:
    if ids[-1] in ends:
        return True
    return len(ends) == 1 and base.tokenizer.eos_token != END and END in base.tokenizer.decode(ids[-TAIL:])


def _text(base: Base, ids: Sequence[int]) -> tuple[str, bool]:
    """Returns the story in NFC with single spaces, cut at the first tag, and whether that tag was the end's."""
    text = base.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    ends = (END, base.tokenizer.eos_token)
    found = [(text.find(tag), tag) for tag in {*TAGS, *base.tokenizer.all_special_tokens} if tag in text]
    at, tag = min(found, default=(len(text), END))
    return " ".join(unicodedata.normalize("NFC", text[:at]).split()), tag in ends
