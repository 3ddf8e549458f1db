"""Figures of bases and adapters."""

import math

import pytest
import torch
from tiny import write_tiny_base

from gonbuild.base import locate_base
from gonbuild.evaluate import BATCH, bits_per_byte, distinct_n
from gonbuild.model import load_base
from gonbuild.records import Row
from gonbuild.settings import ModelSettings

ROWS = [
    Row(f"card-{n}", f"<|user|>\nThẻ {n // 10}<|end|>\n<|assistant|>\n", f"{'Cá bơi. ' * (1 + n % 4)}<|end|>")
    for n in range(11)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_tiny_base(tmp_path_factory.mktemp("base"))
    settings = ModelSettings(base=str(folder))
    return load_base(locate_base(settings, folder), settings, threads=1)


def test_bits_per_byte_equal_the_model_s_own_loss_row_by_row(base):
    nats, tokens = 0.0, 0
    for row in ROWS:
        ids, start = base.encode_row(row)
        labels = torch.tensor([[-100] * start + ids[start:]])
        with torch.no_grad():
            loss = base.model(torch.tensor([ids]), labels=labels).loss.item()
        nats, tokens = nats + loss * (len(ids) - start), tokens + len(ids) - start
    size = sum(len(row.completion.removesuffix("<|end|>").encode()) for row in ROWS)
    figures = bits_per_byte(base, ROWS)
    assert figures.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert figures.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert (figures.rows, figures.bytes) == (11, size)


def test_measuring_tells_its_progress_to_the_end(base):
    told = []
    bits_per_byte(base, ROWS, lambda *step: told.append(step))
    assert told == [("measuring", done, 11) for done in (0, BATCH, 10, 11)]


@pytest.mark.parametrize(
    ("texts", "n", "wanted"),
    [
        (["a b a b"], 1, 2 / 4),
        (["a b a b"], 2, 2 / 3),
        (["a b", "a b"], 2, 1 / 2),
        (["a b c"], 3, 1.0),
        (["a"], 2, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct_n_is_the_share_of_different_n_grams(texts, n, wanted):
    assert distinct_n(texts, n) == pytest.approx(wanted)
