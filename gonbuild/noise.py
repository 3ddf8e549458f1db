"""Owns the engine's randomness: numbers that depend on a key and a counter alone; keeps no state and draws no token.

Plain integer arithmetic on whatever has it, so that Python's ints and int64 tensors of any device give the same bits.
"""

import hashlib
from typing import TYPE_CHECKING, TypeVar

from gonbuild.records import canonical

if TYPE_CHECKING:
    from torch import Tensor  # noqa: TID251  for the signatures alone: nothing is loaded

Word = TypeVar("Word", int, "Tensor")
MASK = 0xFFFFFFFF


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]) -> tuple[Word, Word, Word, Word]:
    """Returns the four 32-bit words of Philox4x32-10 for a counter of four and a key of two 32-bit words.

    Words lie in 0..2**32-1; int64 tensors are broadcast against each other. A product that wraps around in int64 keeps
    its 64 bits, of which the mask takes what is wanted. Salmon et al., Parallel random numbers: as easy as 1, 2, 3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def key_of(card: str, seed: int) -> tuple[int, int]:
    """Returns the 64-bit key of a card's noise as two words: the first bytes of a sha256 over card id and seed."""
    value = hashlib.sha256(canonical([card, seed]).encode()).digest()
    return int.from_bytes(value[:4], "big"), int.from_bytes(value[4:8], "big")


def gumbel(key: "tuple[Tensor, Tensor]", candidates: "Tensor", steps: "Tensor", tokens: "Tensor") -> "Tensor":
    """Returns standard Gumbel noise, float64, one value per (key, candidate index, step, token id).

    key, candidates, steps: (n, 1) int64, tokens: (n, k) int64 -> (n, k). A value depends on its own numbers alone, so
    that neither the other rows nor the choice of tokens move it.
    """
    high, low, _, _ = philox((tokens, steps, candidates, steps - steps), key)
    bits = (high << 20) | (low >> 12)  # 52 of them: with the half added a float64 holds each exactly, and never 0 or 1
    return -(-((bits.double() + 0.5) * 2.0**-52).log()).log()
