"""Owns running a decoder of the Llama family on its own modules: many tokens of a text, or the next one of many texts.

It keeps nothing between calls, draws no token, and knows no tokenizer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gonbuild.memory import TILE, Shape, read_shape

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Not cuDNN's: it builds a kernel for each new shape, which takes seconds, and does not repeat its results."""

Past = Sequence[Sequence[Tensor]]
"""Keys and values of each layer, (rows, key-value heads, tokens, head width)."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


PACKED_BYTES = 1 << 30
"""A model with more weights than this is not kept twice."""


class Cache(Protocol):
    """Where the texts of a step keep their keys and values."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keeps a token's key and value, (n, heads, width) before rotation; returns (n, query heads * width)."""

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """Returns silu(gate) * up."""


class Decoder:
    """Runs the layers of a transformers model, also with LoRA or in 4 bits, without its own attention and cache."""

    def __init__(self, model: Any) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = inner.config
        self._body, self._head = inner.model, inner.lm_head
        self._layers = list(inner.model.layers)[: config.num_hidden_layers]
        self.layers, self.shape = len(self._layers), cast(Shape, read_shape(config.to_dict()))
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.dtype: torch.dtype = self._body.embed_tokens.weight.dtype
        self._packed: dict[Any, Tensor] = {}
        self._arrange()

    def read(self, ids: Tensor, past: Past = ()) -> tuple[Tensor, Past]:
        """Reads ids (n, t) behind a past of one row or n.

        Returns what the head reads, (n, t, hidden), and the keys and values of these tokens alone.
        """
        before = past[0][0].shape[2] if past else 0
        count = ids.shape[1]
        cos, sin = self.angles(torch.arange(before, before + count, device=ids.device))
        sees = torch.ones(count, before + count, dtype=torch.bool, device=ids.device).tril(before) if past else None
        read: list[tuple[Tensor, Tensor]] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (n, heads, t, width)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            read.append((k, v))
            if past:
                k, v = (
                    torch.cat((old.expand(len(new), -1, -1, -1), new), 2)
                    for old, new in zip(past[layer], (k, v), strict=True)
                )
            k, v = (x.repeat_interleave(self.heads // self.kv_heads, 1) for x in (k, v))
            with sdpa_kernel(ATTENTION):
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=sees, is_causal=sees is None)
            return out.transpose(1, 2).flatten(2)

        return self._run(self._body.embed_tokens(ids), attend, gated), read

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads the next token of n texts, (n,), whose positions the cache knows; returns float32 logits (n, v)."""
        return self.logits(self._run(self._body.embed_tokens(tokens), cache.attend, cache.gate))

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits (..., vocabulary) of what `read` gave."""
        return self._apply(hidden, self._head)[0].float()

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cosine and sine of the rotation at each position, (t, width), in the model's number format."""
        like = torch.empty(0, dtype=self.dtype, device=positions.device)
        cos, sin = self._body.rotary_emb(like, position_ids=positions[None])
        return cos[0], sin[0]

    def _run(self, x: Tensor, attend: Attend, gate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        for number, layer in enumerate(self._layers):
            attention, mlp = layer.self_attn, layer.mlp
            h = _norm(x, layer.input_layernorm)
            qkv = self._apply(h, attention.q_proj, attention.k_proj, attention.v_proj)
            q, k, v = (x.view(*x.shape[:-1], -1, self.width) for x in qkv)
            if hasattr(attention, "q_norm"):
                q, k = _norm(q, attention.q_norm), _norm(k, attention.k_norm)
            x = x + self._apply(attend(number, q, k, v), attention.o_proj)[0]
            h = _norm(x, layer.post_attention_layernorm)
            x = x + self._apply(gate(*self._apply(h, mlp.gate_proj, mlp.up_proj)), mlp.down_proj)[0]
        return _norm(x, self._body.norm)

    def _apply(self, x: Tensor, *layers: Any) -> Sequence[Tensor]:
        """Returns what each linear layer makes of x, by one product where their weights lie together."""
        widths = [layer.out_features for layer in layers]
        if (packed := self._packed.get(layers[0])) is not None:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
        elif all(map(_is_plain, layers)) and _adjacent([layer.weight for layer in layers]):
            out = F.linear(x, layers[0].weight.as_strided((sum(widths), x.shape[-1]), (x.shape[-1], 1)))
        else:
            return [layer(x) for layer in layers]
        return out.split_with_sizes(widths, -1)

    def _arrange(self) -> None:
        """Moves the weights of plain layers that read the same input next to each other, where one product takes all.

        Products of more columns fill a GPU, and a CPU's caches, better. A small model on a CPU gets copies in the
        order that its products read. The layers stay what they are.
        """
        small = self.dtype == torch.float32 and 4 * self.shape.linear < PACKED_BYTES and self._head.weight.is_cpu
        for layer in (*self._layers, None):
            for group in _groups(layer) if layer is not None else [(self._head,)]:
                if not all(map(_is_plain, group)):
                    continue
                weights = [linear.weight for linear in group]
                if not _adjacent(weights):
                    whole = torch.cat([weight.data for weight in weights])
                    for weight, part in zip(weights, whole.split_with_sizes([*map(len, weights)]), strict=True):
                        weight.data = part
                if small and "mkldnn" in torch.__config__.show().lower():
                    size = (sum(map(len, weights)), group[0].in_features)
                    whole = weights[0].data.as_strided(size, (size[1], 1))
                    self._packed[group[0]] = torch.ops.mkldnn._reorder_linear_weight(whole, TILE)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pairs (i, i + width / 2) of the last dimension by their angles, as transformers does."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Returns silu(gate) * up."""
    return F.silu(gate) * up


def decoder_of(model: Any) -> Decoder:
    """Returns the decoder of a model, arranged once."""
    if model not in _DECODERS:
        _DECODERS[model] = Decoder(model)
    return _DECODERS[model]


_DECODERS: WeakKeyDictionary[Any, Decoder] = WeakKeyDictionary()


def _groups(layer: Any) -> Iterator[tuple[Any, ...]]:
    """Yields the linear layers of a decoder layer, those that read the same input together."""
    attention, mlp = layer.self_attn, layer.mlp
    yield attention.q_proj, attention.k_proj, attention.v_proj
    yield (attention.o_proj,)
    yield mlp.gate_proj, mlp.up_proj
    yield (mlp.down_proj,)


def _is_plain(layer: Any) -> bool:
    return type(layer) is torch.nn.Linear and layer.bias is None


def _adjacent(weights: Sequence[Tensor]) -> bool:
    """Tells whether matrices lie one after the other in one piece of memory."""
    ends = [weight.data_ptr() + weight.nbytes for weight in weights]
    pieces = {weight.untyped_storage().data_ptr() for weight in weights}
    return len(pieces) == 1 and all(end == w.data_ptr() for end, w in zip(ends, weights[1:], strict=False))


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)
