"""Owns three Triton kernels of a step in 16 bits on a GPU, and the cache that they work on; nothing else needs Triton.

In plain PyTorch a step of 768 rows of Mistral-7B spends as much time on keeping and seeing keys and values as on its
matrix products. Here a prompt's keys and values stand once for all of its candidates, whose rows are read next to each
other, and a step's rotation, keeping and gate are one pass each.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gonbuild.decoder import Decoder, Past
from gonbuild.memory import Room
from gonbuild.slots import PLACE, START, STEP, empty, put


class KernelCache:
    """Keys and values of prompts, each once, and of what rows drew, for the kernels below."""

    def __init__(self, decoder: Decoder, room: Room, device: torch.device) -> None:
        self._room = room
        self._prompts = empty(decoder, room.prompts, room.prompt, device)
        self._own = empty(decoder, room.rows, room.new, device)
        self._cos, self._sin = decoder.angles(torch.arange(room.prompt + room.new, device=device))

    def put(self, places: Tensor, start: int, read: Past) -> None:
        """Keeps what was read of prompts from a position on, a row for each place or one for all."""
        put(self._prompts, places, start, read)

    def begin(self, state: Tensor, _rows: slice) -> None:
        """Prepares a step of all rows."""
        self._state = state

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keeps and sees; see `decoder.Cache`."""
        rows, heads, width = query.shape
        kv_heads = key.shape[1]
        (own_keys, own_values), (keys, values) = self._own[layer], self._prompts[layer]
        _keep[rows, heads + kv_heads](
            query, key, value, own_keys, own_values, self._cos, self._sin, self._state, rows,
            query.stride(0), key.stride(0), heads, kv_heads, self._room.new, width // 2,
            HALF=triton.next_power_of_2(width // 2), STEP=STEP, START=START, num_warps=1,
        )  # fmt: skip
        out = query.new_empty(rows, heads * width)
        _see[rows, kv_heads](
            query, keys, values, own_keys, own_values, out, self._state, rows, query.stride(0), width**-0.5,
            heads, kv_heads, self._room.prompt, self._room.new, width,
            GROUPS=heads // kv_heads, QUERIES=max(16, triton.next_power_of_2(heads // kv_heads)),
            WIDTH=max(16, triton.next_power_of_2(width)),
            BLOCK=16, STEP=STEP, START=START, PLACE=PLACE, num_warps=1, num_stages=3,  # the fastest of 64 ways tried
        )  # fmt: skip
        return out

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """Returns silu(gate) * up."""
        rows, width = gate.shape
        out = gate.new_empty(rows, width)
        _gate[rows, triton.cdiv(width, 1024)](gate, up, out, gate.stride(0), up.stride(0), width, SIZE=1024)
        return out


@triton.jit
def _keep(
    query, key, value, own_keys, own_values, cosines, sines, state, rows,
    q_stride, k_stride, heads, kv_heads, new, half, HALF: tl.constexpr, STEP: tl.constexpr, START: tl.constexpr,
):  # fmt: skip
    """Rotates a query head in place, or rotates and keeps a key head with its value."""
    row, head = tl.program_id(0), tl.program_id(1)
    step = tl.load(state + STEP * rows + row)
    position = tl.load(state + START * rows + row) + step
    at = tl.arange(0, HALF)
    there = at < half
    # Both halves of the angles are the same.
    cos = tl.load(cosines + position * 2 * half + at, mask=there).to(tl.float32)
    sin = tl.load(sines + position * 2 * half + at, mask=there).to(tl.float32)
    source = query + row * q_stride + head * 2 * half
    target = source
    if head >= heads:
        source = key + row * k_stride + (head - heads) * 2 * half
        kept = ((row * kv_heads + head - heads).to(tl.int64) * new + step) * 2 * half
        target = own_keys + kept
        values = value + row * k_stride + (head - heads) * 2 * half
        tl.store(own_values + kept + at, tl.load(values + at, mask=there), mask=there)
        tl.store(own_values + kept + half + at, tl.load(values + half + at, mask=there), mask=there)
    first = tl.load(source + at, mask=there).to(tl.float32)
    second = tl.load(source + half + at, mask=there).to(tl.float32)
    tl.store(target + at, (first * cos - second * sin).to(query.dtype.element_ty), mask=there)
    tl.store(target + half + at, (second * cos + first * sin).to(query.dtype.element_ty), mask=there)


@triton.jit
def _see(
    query, keys, values, own_keys, own_values, out, state, rows, q_stride, scale,
    heads, kv_heads, prompt, new, width,
    GROUPS: tl.constexpr, QUERIES: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, START: tl.constexpr, PLACE: tl.constexpr,
):  # fmt: skip
    """Attention of the queries of a key-value head of a row: over its prompt, then over what it drew, in blocks."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tl.load(state + PLACE * rows + row)
    q_at, d_at, k_at = tl.arange(0, QUERIES), tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    mine = (head * GROUPS + q_at)[:, None] * width + d_at[None]
    used = (q_at[:, None] < GROUPS) & (d_at[None] < width)
    q = tl.load(query + row * q_stride + mine, mask=used, other=0.0)
    most = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, WIDTH), tl.float32)
    for part in tl.static_range(2):
        if part == 0:
            count = tl.load(state + START * rows + row)
            k_from = keys + (place * kv_heads + head) * prompt * width
            v_from = values + (place * kv_heads + head) * prompt * width
        else:
            count = tl.load(state + STEP * rows + row) + 1
            k_from = own_keys + (row * kv_heads + head) * new * width
            v_from = own_values + (row * kv_heads + head) * new * width
        for begin in range(0, count, BLOCK):
            there = begin + k_at < count
            inside = there[:, None] & (d_at[None] < width)
            block = (begin + k_at)[:, None] * width + d_at[None]
            k = tl.load(k_from + block, mask=inside, other=0.0)
            v = tl.load(v_from + block, mask=inside, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(there[None], scores, -float("inf"))
            higher = tl.maximum(most, tl.max(scores, 1))
            shares = tl.exp(scores - higher[:, None])
            less = tl.exp(most - higher)
            total = total * less + tl.sum(shares, 1)
            sums = sums * less[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
            most = higher
    tl.store(out + row * heads * width + mine, (sums / total[:, None]).to(out.dtype.element_ty), mask=used)


@triton.jit
def _gate(gate, up, out, gate_stride, up_stride, width, SIZE: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    g = tl.load(gate + row * gate_stride + at, mask=at < width).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=at < width).to(tl.float32)
    tl.store(out + row * width + at, (g / (1 + tl.exp(-g)) * u).to(out.dtype.element_ty), mask=at < width)
