"""Owns the figures by which bases and adapters are compared; trains nothing and judges no single story."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gonbuild.engine import score
from gonbuild.model import Base
from gonbuild.records import END, Progress, Row, quiet

BATCH = 8
"""Rows read together at most."""


@dataclass(frozen=True)
class BitsPerByte:
    """How well a model foretells stories: less is better, and unlike perplexity it compares tokenizers."""

    bits_per_byte: float
    """Per UTF-8 byte of the stories; the end tokens' bits are counted in, their bytes are not."""
    perplexity: float
    """Per token of the completions."""
    rows: int
    bytes: int


def bits_per_byte(base: Base, rows: Sequence[Row], progress: Progress = quiet) -> BitsPerByte:
    """Measures a model on the completions of at least one row, given their prompts.

    Up to BATCH rows of one prompt that stand together are read together, the prompt once.
    """
    nats, tokens, done = 0.0, 0, 0
    encoded = [(ids[:start], ids[start:]) for ids, start in map(base.encode_row, rows)]
    while done < len(rows):
        progress("measuring", done, len(rows))
        prompt, following = encoded[done][0], encoded[done : done + BATCH]
        count = next((n for n, (other, _) in enumerate(following) if other != prompt), len(following))
        alike = [completion for _, completion in following[:count]]
        nats -= sum(score(base, prompt, alike))
        tokens += sum(map(len, alike))
        done += count
    progress("measuring", done, len(rows))
    size = sum(len(row.completion.removesuffix(END).encode()) for row in rows)
    return BitsPerByte(nats / math.log(2) / size, math.exp(nats / tokens), len(rows), size)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Returns the share of different ones among all word n-grams of the texts (Li et al. 2016), 0 where there is none.

    Words are separated by spaces, and case counts.
    """
    grams = [
        tuple(words[at : at + n]) for words in (text.split() for text in texts) for at in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0
