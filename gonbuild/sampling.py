"""Owns choosing the next token from logits: the processed distribution, and keyed noise on it; runs no model."""

import torch
from torch import Tensor

from gonbuild.noise import gumbel
from gonbuild.settings import SamplingSettings


def choose(logits: Tensor, seen: Tensor | None, settings: SamplingSettings, noise: "Keys | None") -> Tensor:
    """Returns the token that each row takes, (n, 1): the largest of processed log-probability plus noise.

    logits: (n, vocabulary) float32; seen: (n, length) ids that the repetition penalty counts, which a penalty needs.
    Without keys the noise is torch's own stream.
    """
    scores, tokens = keep_likely(logits, seen, settings)
    drawn = noise.gumbel(tokens) if noise else -torch.empty_like(scores).exponential_().log()
    best = (scores + drawn).argmax(-1, keepdim=True)
    return tokens.gather(-1, best)


class Keys:
    """What the noise of each row depends on: (n, 1) int64 each, `card` the two words of `noise.key_of`."""

    def __init__(self, card: tuple[Tensor, Tensor], candidates: Tensor, steps: Tensor) -> None:
        self.card, self.candidates, self.steps = card, candidates, steps

    def gumbel(self, tokens: Tensor) -> Tensor:
        """Returns standard Gumbel noise for tokens (n, k), float64."""
        return gumbel(self.card, self.candidates, self.steps, tokens)


def keep_likely(logits: Tensor, seen: Tensor | None, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Returns the processed scores of the likeliest tokens, float64, -inf where one is dropped, and their ids: (n, k).

    Repetition penalty, temperature, top-k, top-p and min-p in transformers' order and meaning.
    """
    if settings.repetition_penalty != 1 and seen is not None:
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
    if settings.min_p > 0:
        shares = scores.softmax(-1)
        scores = scores.masked_fill(shares < settings.min_p * shares[:, :1], -torch.inf)
    return scores, tokens
