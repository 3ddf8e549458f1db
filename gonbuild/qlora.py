"""Owns how a LoRA layer over a 4-bit weight is computed in training; knows no trainer and changes no result.

PEFT and bitsandbytes take a dozen GPU calls more for a layer and its gradients, and with short rows the host that makes
the calls decides the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """A kind of linear layer, and what makes its weight whole; tests have one that holds it whole."""

    layer: type[Any]
    whole: Callable[[Any], Tensor]


def _four_bits() -> Kind:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    return Kind(Linear4bit, lambda weight: dequantize_4bit(weight.data, weight.quant_state))


def compute_together(model: Any, kind: Kind | None = None) -> None:
    """Lets every LoRA layer over a 4-bit weight without bias of a PEFT model compute both of its paths in one step."""
    kind = kind or _four_bits()
    for module in model.modules():
        base = module.get_base_layer() if isinstance(module, LoraLayer) else None
        if isinstance(base, kind.layer) and base.bias is None:
            module.forward = partial(_forward, module, kind.whole)


def _forward(layer: Any, whole: Callable[[Any], Tensor], x: Tensor) -> Tensor:
    (name,) = layer.active_adapters
    weight = layer.get_base_layer().weight
    dropout = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    out: Tensor = _Together.apply(x, a, b, (weight, whole), layer.scaling[name], dropout)  # type: ignore[no-untyped-call]
    return out


class _Together(torch.autograd.Function):
    """x W' + scaling dropout(x) A' B' and its gradients, W held in 4 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, held: Any, scaling: float, dropout: float) -> Tensor:
        rows = x.flatten(0, -2)  # (tokens, in)
        out = rows @ _whole(held, x.dtype).t()  # (tokens, out)
        dropped, kept = torch.native_dropout(rows, dropout, True) if dropout else (rows, None)
        low = dropped @ a.t()  # (tokens, rank)
        out.addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(dropped, kept, low, a, b)
        ctx.held, ctx.scaling, ctx.dropout, ctx.shape = held, scaling, dropout, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dropped, kept, low, a, b = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)  # (tokens, out)
        # With beta 0 the first argument gives nothing but its type: the scaling costs no call of its own.
        to_low = torch.addmm(low, gradient, b, beta=0, alpha=ctx.scaling)
        to_b = torch.addmm(b, gradient.t(), low, beta=0, alpha=ctx.scaling)
        to_a = to_low.t() @ dropped
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = to_low @ a
            if kept is not None:
                to_x = torch.ops.aten.native_dropout_backward(to_x, kept, 1 / (1 - ctx.dropout))
            to_x = to_x.addmm_(gradient, _whole(ctx.held, gradient.dtype)).view(ctx.shape)
        return to_x, to_a, to_b, None, None, None


def _whole(held: tuple[Any, Callable[[Any], Tensor]], dtype: torch.dtype) -> Tensor:
    weight, whole = held
    return whole(weight).to(dtype)
