"""Owns how a LoRA layer over a 4-bit weight is computed in training; knows no trainer and changes no result.

PEFT and bitsandbytes take a dozen GPU calls more for a layer and its gradients, and with short rows the host that makes
the calls decides the time.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor


def compute_together(model: Any) -> None:
    """Lets every LoRA layer over a 4-bit weight without bias of a PEFT model compute both of its paths in one step."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        base = module.get_base_layer() if isinstance(module, LoraLayer) else None
        if isinstance(base, Linear4bit) and base.bias is None:
            module.forward = MethodType(_forward, module)


def _forward(layer: Any, x: Tensor) -> Tensor:
    (name,) = layer.active_adapters
    weight = layer.get_base_layer().weight
    dropout = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    out: Tensor = _Together.apply(x, a, b, weight, layer.scaling[name], dropout)  # type: ignore[no-untyped-call]
    return out


class _Together(torch.autograd.Function):
    """x W' + scaling dropout(x) A' B' and its gradients, W held in 4 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Any, scaling: float, dropout: float) -> Tensor:
        rows = x.flatten(0, -2)  # (tokens, in)
        out = rows @ _dequantized(weight, x.dtype).t()  # (tokens, out)
        dropped, kept = torch.native_dropout(rows, dropout, True) if dropout else (rows, None)
        low = dropped @ a.t()  # (tokens, rank)
        out.addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(dropped, kept, low, a, b)
        ctx.weight, ctx.scaling, ctx.dropout, ctx.shape = weight, scaling, dropout, x.shape
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
            to_x = to_x.addmm_(gradient, _dequantized(ctx.weight, gradient.dtype)).view(ctx.shape)
        return to_x, to_a, to_b, None, None, None


def _dequantized(weight: Any, dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    whole: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return whole.to(dtype)
