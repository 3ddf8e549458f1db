"""Choosing the next token: the processed distribution, and keyed noise on it."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gonbuild.noise import key_of
from gonbuild.sampling import Keys, choose, keep_likely
from gonbuild.settings import SamplingSettings

LIMITS = [
    (1.0, 0, 1.0, 0.0, 1.0),
    (0.8, 50, 0.95, 0.0, 1.0),
    (1.5, 7, 1.0, 0.0, 1.0),
    (0.7, 0, 0.6, 0.0, 1.0),
    (1.0, 0, 1.0, 0.1, 1.0),
    (1.2, 60, 0.9, 0.2, 1.0),
    (1.0, 40, 0.9, 0.05, 1.3),
]


def keys(card: str, candidates: torch.Tensor, step: int) -> Keys:
    return Keys(
        tuple(torch.full_like(candidates, word) for word in key_of(card, 0)),
        candidates,
        torch.full_like(candidates, step),
    )


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p", "penalty"), LIMITS)
def test_choices_follow_the_distribution_that_transformers_processors_give(temperature, top_k, top_p, min_p, penalty):
    """A chi-square test over the tokens that are expected 10 times or more in 20,000 draws, keyed and free."""
    torch.manual_seed(3)
    logits, seen = torch.randn(1, 200) * 2, torch.tensor([[5, 9, 9, 150]])
    settings = SamplingSettings(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
    )
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    processors += [TopKLogitsWarper(top_k)] if top_k else []
    processors += [TopPLogitsWarper(top_p)]
    processors += [MinPLogitsWarper(min_p)] if min_p else []
    wanted = processors(seen, logits.clone()).softmax(-1)[0].double()

    scores, tokens = keep_likely(logits, seen, settings)
    kept = torch.zeros(200, dtype=torch.float64).scatter(0, tokens[0], scores.softmax(-1)[0])
    assert torch.allclose(kept, wanted, atol=1e-6)

    n = 20_000
    for noise in (keys("a", torch.arange(n)[:, None], 0), None):
        chosen = choose(logits.expand(n, -1), seen.expand(n, -1), settings, noise)
        counts, expected = chosen[:, 0].bincount(minlength=200).double(), wanted * n
        assert counts[wanted == 0].sum() == 0
        common = expected >= 10
        square = ((counts - expected) ** 2 / expected)[common].sum().item()
        freedom = int(common.sum()) - 1
        assert freedom >= 4
        assert square < freedom + 4 * (2 * freedom) ** 0.5


def test_candidates_of_two_rounds_get_the_choices_of_one():
    torch.manual_seed(0)
    logits, settings = torch.randn(16, 500), SamplingSettings(temperature=1.0)
    indices = torch.arange(16)[:, None]
    whole = choose(logits, None, settings, keys("a", indices, 5))
    halves = [choose(logits[h], None, settings, keys("a", indices[h], 5)) for h in (slice(0, 8), slice(8, 16))]
    assert torch.equal(whole, torch.cat(halves))
