"""Rows in one sequence: each is read as if it stood alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_tiny_base
from transformers import AutoModelForCausalLM

from gonbuild.packing import IGNORED, attention_mask, pack, shared_tokens


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([([5, 6, 7, 8], 3), ([5, 6, 9, 8], 3)], 2),
        ([([5, 6, 7, 8], 3), ([5, 6, 7, 9], 3)], 2),  # token 2 foretells what is learned, in each row something else
        ([([5, 6, 7, 8], 3), ([5, 6, 7, 9], 1)], 0),
        ([([5, 6], 0), ([5, 7], 1)], 0),
        ([([5, 6, 7], 2), ([8, 6, 7], 2)], 0),
        ([([5, 6, 7], 3), ([5], 1)], 0),
        ([([5, 6, 7, 8], 3)], 0),
    ],
)
def test_what_rows_share_ends_before_what_they_learn(rows, shared):
    assert shared_tokens(rows) == shared


def test_shared_tokens_stand_once_and_labels_are_each_rows_next_token():
    packed = pack([([5, 6, 7, 8, 2], 3), ([5, 6, 9, 4, 3, 2], 4)], pad=0, multiple=8)
    assert {name: tensor.tolist() for name, tensor in packed.items()} == {
        "input_ids": [[5, 6, 7, 8, 2, 9, 4, 3, 2, 0, 0, 0, 0, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 4, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0]],
        "segments": [[0, 0, 1, 1, 1, 2, 2, 2, 2, -1, -1, -1, -1, -1, -1, -1]],
        "shift_labels": [[IGNORED, IGNORED, 8, 2, IGNORED, IGNORED, 3, 2, *[IGNORED] * 8]],
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")
    return AutoModelForCausalLM.from_pretrained(folder).eval()


ROW = st.lists(st.integers(5, 200), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(start=ROW, rows=st.lists(ROW, min_size=1, max_size=5), multiple=st.sampled_from([1, 8]))
def test_packed_tokens_get_the_logits_that_they_get_alone(model, start, rows, multiple):
    rows = [([*start, *row], len(start)) for row in rows]
    packed = pack(rows, 0, multiple)
    with torch.no_grad():
        logits = model(
            input_ids=packed["input_ids"],
            position_ids=packed["position_ids"],
            attention_mask=attention_mask(packed["segments"]),
        ).logits[0]
        learned = packed["shift_labels"][0] != IGNORED
        alone = [model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1] for ids, start in rows]
    assert packed["shift_labels"][0, learned].tolist() == [token for ids, start in rows for token in ids[start:]]
    assert torch.allclose(logits[learned], torch.cat(alone), atol=1e-4)
