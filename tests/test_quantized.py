import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gonbuild.quantized import dequantize, is_quantized, quantize, read_weights, write_weights

RNG = np.random.default_rng(0)
WEIGHTS = {
    "layer.weight": RNG.normal(size=(5, 64)).astype(np.float32) * np.array([[1e-4], [1], [100], [0], [3]], np.float32),
    "norm.weight": RNG.normal(size=64).astype(np.float32),
}


def test_a_weight_is_off_by_half_a_step_of_its_row_at_most_and_a_vector_is_exact():
    found = dequantize(quantize(WEIGHTS))
    assert found.keys() == WEIGHTS.keys()
    step = np.abs(WEIGHTS["layer.weight"]).max(axis=1, keepdims=True) / 127
    assert (np.abs(found["layer.weight"] - WEIGHTS["layer.weight"]) <= step * 0.501).all()
    assert (found["norm.weight"] == WEIGHTS["norm.weight"]).all()
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_quantized_again_gives_the_same_bytes():
    once = quantize(WEIGHTS)
    again = quantize(dequantize(once))
    assert all(np.array_equal(once[name], again[name]) for name in once if once[name].dtype == np.int8)


def test_matrix_without_its_scales_is_left_out_and_so_found_missing():
    stored = quantize(WEIGHTS)
    del stored["layer.weight.scale"]
    assert dequantize(stored).keys() == {"norm.weight"}


def test_matrix_takes_a_byte_a_weight_and_four_a_row():
    assert quantize(WEIGHTS)["layer.weight"].nbytes == 5 * 64
    assert quantize(WEIGHTS)["layer.weight.scale"].nbytes == 5 * 4


def test_folder_that_was_written_says_its_format_and_is_read_back(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    assert not is_quantized(tmp_path)
    write_weights(WEIGHTS, tmp_path)
    assert is_quantized(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mistral"
    for name, weight in dequantize(quantize(WEIGHTS)).items():
        assert np.array_equal(read_weights(tmp_path)[name], weight)


@pytest.mark.parametrize("weight", [np.zeros((2, 3), np.float32), np.full((2, 3), -7.0, np.float32)])
def test_rows_without_a_spread_come_back(weight):
    assert np.allclose(dequantize(quantize({"w": weight}))["w"], weight)


@pytest.mark.parametrize("scale", [np.ones(5, np.float32), np.ones((1, 1), np.float32), np.full((5, 1), np.nan)])
def test_matrix_whose_scales_do_not_fit_is_left_out(scale):
    stored = quantize(WEIGHTS) | {"layer.weight.scale": scale}
    assert dequantize(stored).keys() == {"norm.weight"}


def test_weights_of_another_type_are_named(tmp_path):
    save_file({"w": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="a tensor is neither int8 nor float32"):
        read_weights(tmp_path)


def test_other_format_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"weight_storage": "int4"}))
    with pytest.raises(ValueError, match="its weight_storage is 'int4', wanted 'int8-rows' or none"):
        is_quantized(tmp_path)
