"""The engine's randomness."""

import pytest
import torch

from gonbuild.noise import gumbel, key_of, philox

# Random123's kat_vectors, philox4x32 10: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


PINNED = [[1.0264357168913698, 0.2507616559471816], [0.7677776025775778, -0.04985187187579638]]
"""Of the first engine's noise: other values would be other stories."""


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_philox_gives_the_published_words(counter, key, wanted):
    assert philox(words(counter), words(key)) == words(wanted)


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_philox_on_tensors_gives_the_published_words(counter, key, wanted):
    got = philox(tuple(torch.tensor([c, 0]) for c in words(counter)), words(key))
    assert tuple(int(g[0]) for g in got) == words(wanted)


def column(*values: int) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def noise(card: str, seed: int, candidates: torch.Tensor, step: int, tokens: torch.Tensor) -> torch.Tensor:
    key = tuple(torch.full_like(candidates, word) for word in key_of(card, seed))
    return gumbel(key, candidates, torch.full_like(candidates, step), tokens)


def test_noise_is_gumbel_distributed():
    values = noise("a", 0, column(*range(400)), 0, torch.arange(500).expand(400, -1))
    assert values.dtype == torch.float64
    assert values.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert values.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.03)
    assert values.unique().numel() == values.numel()


def test_noise_of_a_token_depends_on_no_other_token_or_row():
    whole = noise("bao-ve-001", 3, column(*range(16)), 7, torch.arange(50).expand(16, -1))
    part = noise("bao-ve-001", 3, column(9, 4), 7, torch.tensor([[30, 2], [30, 49]]))
    assert torch.equal(part, torch.stack((whole[9, [30, 2]], whole[4, [30, 49]])))
    keys = [key_of(card, 3) for card in ("bao-ve-001", "other")]
    mixed = gumbel(
        tuple(column(*words) for words in zip(*keys, strict=True)), column(9, 9), column(7, 0), column(30, 30)
    )
    assert mixed[0].item() == whole[9, 30].item()
    assert mixed[1].item() == noise("other", 3, column(9), 0, column(30)).item()


def test_noise_stays_what_it_was():
    values = noise("bao-ve-001", 3, column(0, 5), 7, torch.tensor([[1, 2000], [1, 2000]]))
    assert values.tolist() == PINNED


def test_noise_moves_with_card_seed_candidate_step_and_token():
    first = ("a", 0, 0, 0, 0)
    others = [("b", 0, 0, 0, 0), ("a", 1, 0, 0, 0), ("a", 0, 1, 0, 0), ("a", 0, 0, 1, 0), ("a", 0, 0, 0, 1)]
    values = [
        noise(card, seed, column(candidate), step, column(token)).item()
        for card, seed, candidate, step, token in (first, *others)
    ]
    assert len(set(values)) == 6


def test_key_is_the_head_of_a_sha256_over_card_and_seed():
    assert key_of("bao-ve-001", 0) == (0x6FD697DD, 0xEA042E52)  # printf '["bao-ve-001",0]' | sha256sum
