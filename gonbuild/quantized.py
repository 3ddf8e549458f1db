"""Owns the embedded base's weight files: matrices in 8 bits with a scale for each row, vectors as they are.

Half the bytes of bfloat16 for the same model to the third digit: a shorter clone, or a larger base.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

FORMAT = "int8-rows"
"""What config.json says under `weight_storage`."""
SCALE = ".scale"

Array = NDArray[Any]


def quantize(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Returns each matrix (rows, columns) as int8 with a float32 scale (rows, 1) beside it, each vector as float32."""
    stored: dict[str, Array] = {}
    for name, weight in weights.items():
        if weight.ndim != 2:
            stored[name] = weight.astype(np.float32)
            continue
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
        stored[name] = np.rint(weight / scale).astype(np.int8)
        stored[name + SCALE] = scale
    return stored


def dequantize(stored: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the float32 weights of what `quantize` gave; a matrix without a scale for each row is left out."""
    weights: dict[str, Array] = {}
    for name, value in stored.items():
        scale = stored.get(name + SCALE)
        if value.dtype != np.int8:
            weights |= {} if name.endswith(SCALE) else {name: value}
        elif scale is not None and scale.shape == (len(value), 1) and np.isfinite(scale).all():
            weights[name] = value * scale
    return weights


def write_weights(weights: Mapping[str, Array], folder: Path) -> None:
    """Writes `model.safetensors` and names the format in the folder's config.json."""
    save_file(quantize(weights), folder / "model.safetensors")
    config = folder / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) | {"weight_storage": FORMAT}
    config.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def is_quantized(folder: Path) -> bool:
    """Tells whether the folder's weights are in this format.

    Raises:
        ValueError: they are in another one that config.json names.
    """
    found = json.loads((folder / "config.json").read_bytes()).get("weight_storage")
    if found not in (None, FORMAT):
        raise ValueError(f"its weight_storage is '{found}', wanted '{FORMAT}' or none")
    return found is not None


def read_weights(folder: Path) -> dict[str, Array]:
    """Returns the float32 weights of a folder that `write_weights` wrote.

    Raises:
        ValueError: a tensor is of a type that this format does not have.
    """
    try:
        return dequantize(load_file(folder / "model.safetensors"))
    except TypeError as e:  # numpy knows no bfloat16
        raise ValueError(f"a tensor is neither int8 nor float32: {e}") from None
