"""Owns the figures by which bases and adapters are compared; trains nothing and judges no single story."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
import torch
import torch.nn.functional as F

from gonbuild.records import END, Progress, Row, quiet

BATCH = 8
"""Rows in a batch: fixed, so that a figure does not depend on how many rows there are."""
IGNORED = -100


@dataclass(frozen=True)
class BitsPerByte:
    """How well a model foretells stories: less is better, and unlike perplexity it compares tokenizers."""

    bits_per_byte: float
    """Per UTF-8 byte of the stories; the end tokens' bits are counted in, their bytes are not."""
    perplexity: float
    """Per token of the completions."""
    rows: int
    bytes: int


@torch.inference_mode()
def bits_per_byte(base: Base, rows: Sequence[Row], progress: Progress = quiet) -> BitsPerByte:
    """Measures a model on the completions of at least one row, given their prompts."""
    nats, tokens = 0.0, 0
    for start in range(0, len(rows), BATCH):
        progress("measuring", start, len(rows))
        ids, labels = _batch(base, rows[start : start + BATCH])
        # Padding stands right of the text, where nothing looks back at it.
        logits = base.model(input_ids=ids.to(base.device), use_cache=False).logits[:, :-1].float().cpu()
        nats += F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").item()
        tokens += int((labels[:, 1:] != IGNORED).sum())
    progress("measuring", len(rows), len(rows))
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


def _batch(base: Base, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and labels, (rows, longest) each; labels hold the completions alone."""
    encoded = [base.encode_row(row) for row in rows]
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.full((len(rows), longest), base.tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for row, (tokens, start) in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
    return ids, labels
