"""Owns the rows that candidates are drawn in: their state on the device, their cache, and one step of fixed shape.

Fixed shapes are what makes a row's bits independent of its neighbours, and what one CUDA graph can hold. Which
candidate takes which row is the engine's affair.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gonbuild.decoder import Decoder, Past, gated, rotate
from gonbuild.memory import TILE, Room
from gonbuild.sampling import Keys, choose
from gonbuild.settings import SamplingSettings

STRIDE = 32
"""Positions by which what a CPU sees grows."""

TOKEN, STEP, START, PLACE, CANDIDATE, KEY_HIGH, KEY_LOW = range(7)
"""Rows of the state: the token to read next, tokens drawn so far, tokens of the prompt before the first one read here,
the prompt's place in the cache, and what the noise depends on."""


class PlainCache:
    """Keys and values in plain PyTorch, for a CPU: of prompts, each once, and of what rows drew.

    Prompts are seen by all rows of a tile at once, whosever they are, and the right one is taken: few products of fixed
    shape, where a copy for each row would be read from memory at every step.
    """

    def __init__(self, decoder: Decoder, room: Room, device: torch.device) -> None:
        self._room = room
        self._prompts = empty(decoder, room.prompts, room.prompt, device)
        # A tile's lie together, heads first: so a product for each head and row needs no copy.
        shape = (room.rows // TILE, decoder.kv_heads, TILE, room.new, decoder.width)
        self._own = [[torch.zeros(shape, dtype=decoder.dtype) for _ in "kv"] for _ in range(decoder.layers)]
        self._cos, self._sin = decoder.angles(torch.arange(room.prompt + room.new, device=device))
        self._rows = torch.arange(TILE, device=device)
        self._columns = torch.arange(max(room.prompt, room.new), device=device)

    def put(self, places: Tensor, start: int, read: Past) -> None:
        """Keeps what was read of prompts from a position on, a row for each place or one for all."""
        put(self._prompts, places, start, read)

    def begin(self, state: Tensor, rows: slice) -> None:
        """Prepares a step of these rows."""
        step, start = state[STEP], state[START]
        self._turn = self._cos[start + step][:, None], self._sin[start + step][:, None]  # (n, 1, width)
        self._tile, self._step = rows.start // TILE, step
        # Below multiples of STRIDE a sum may be taken in another order.
        prompt, own = (-(-max(int(x.max()), 1) // STRIDE) * STRIDE for x in (start, step + 1))
        self._spans = min(prompt, self._room.prompt), min(own, self._room.new)
        self._places, self._whose = state[PLACE].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        unseen = [self._columns[:span] >= x[:, None] for span, x in zip(self._spans, (start, step + 1), strict=True)]
        self._unseen = torch.cat(unseen, 1)[None, :, None]  # (1, n, 1, prompt + own)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keeps and sees; see `decoder.Cache`."""
        n, heads, width = key.shape
        prompt, own = self._spans
        keys, values = (kept[self._tile] for kept in self._own[layer])  # (heads, n, new, width)
        keys[:, self._rows, self._step] = rotate(key, *self._turn).transpose(0, 1)
        values[:, self._rows, self._step] = value.transpose(0, 1)
        keys, values = keys[:, :, :own], values[:, :, :own]
        q = (rotate(query, *self._turn) * width**-0.5).view(n, heads, -1, width).transpose(0, 1).contiguous()
        groups = q.shape[2]
        prompts = [kept[self._places, :, :prompt] for kept in self._prompts[layer]]  # (places, heads, prompt, width)
        seen = q.view(heads, n * groups, width) @ prompts[0].transpose(-1, -2)
        scores = torch.cat((self._own_place(seen, n), q @ keys.transpose(-1, -2)), -1)  # (heads, n, groups, seen)
        shares = scores.masked_fill_(self._unseen, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype)
        told = shares[..., :prompt].reshape(heads, n * groups, prompt) @ prompts[1]
        out = self._own_place(told, n) + shares[..., prompt:] @ values
        return out.transpose(0, 1).reshape(n, heads * groups * width)

    def _own_place(self, x: Tensor, n: int) -> Tensor:
        """Takes for each row what its own prompt gave: (places, heads, n * groups, k) to (heads, n, groups, k)."""
        by_row = x.view(*x.shape[:2], n, -1, x.shape[-1])
        return by_row[self._whose, :, self._rows].transpose(0, 1)

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """Returns silu(gate) * up."""
        return gated(gate, up)


Kept = list[tuple[Tensor, Tensor]]


def empty(decoder: Decoder, count: int, length: int, device: torch.device) -> Kept:
    """Returns room for keys and values of each layer: zeros, since what is not seen must be numbers all the same."""
    shape = (count, decoder.kv_heads, length, decoder.width)

    def zeros() -> Tensor:
        return torch.zeros(shape, dtype=decoder.dtype, device=device)

    return [(zeros(), zeros()) for _ in range(decoder.layers)]


def put(kept: Kept, places: Tensor, start: int, read: Past) -> None:
    """Writes what was read of prompts from a position on to their places, a row for each or one for all."""
    for mine, new in zip(kept, read, strict=True):
        for whole, part in zip(mine, new, strict=True):
            whole[places, :, start : start + part.shape[2]] = part


class Slots:
    """Rows of fixed number that each draw one candidate, a token a step."""

    def __init__(
        self, decoder: Decoder, cache: Any, room: Room, settings: SamplingSettings, device: torch.device, *, keyed: bool
    ) -> None:
        self._decoder, self._cache, self._settings, self._keyed = decoder, cache, settings, keyed
        self._room = room
        self._state = torch.zeros(7, room.rows, dtype=torch.int64, device=device)
        self._out = torch.zeros(2, room.rows, dtype=torch.float64, device=device)
        self._seen = None
        if settings.repetition_penalty != 1:
            self._seen = torch.zeros(room.rows, room.prompt + room.new + 1, dtype=torch.int64, device=device)
        self._gpu = device.type == "cuda"
        self._graph: Any = None
        self._buffers = deque(torch.empty_like(self._out, device="cpu", pin_memory=True) for _ in range(3 * self._gpu))

    def start(self, rows: Sequence[int], states: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]]) -> None:
        """Lets rows begin candidates, given a column of the state and all of the prompt's tokens for each."""
        new = self._sent([rows, *zip(*states, strict=True)])
        self._state[:, new[0]] = new[1:]
        if self._seen is not None:
            width = self._seen.shape[1]
            filled = [[*prompt, *[prompt[0]] * (width - len(prompt))] for prompt in prompts]
            self._seen[new[0]] = self._sent(filled)

    def launch(self, live: Sequence[int]) -> Callable[[], list[list[float]]]:
        """Takes one step of all rows, of which those in `live` matter.

        Returns what waits for the step and gives each row's token and its log-probability, nats: [tokens, logprobs].
        """
        if not self._gpu:
            for tile in sorted({row // TILE for row in live}):
                self._step(slice(tile * TILE, (tile + 1) * TILE))
            return self._out.tolist
        return self._replayed()  # pragma: no cover  wants a GPU

    def _replayed(self) -> Callable[[], list[list[float]]]:  # pragma: no cover  wants a GPU
        if self._graph is None:
            self._capture()
        self._graph.replay()
        buffer, arrived = self._buffers[0], torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._buffers.rotate(1)
        buffer.copy_(self._out, non_blocking=True)
        arrived.record()

        def result() -> list[list[float]]:
            arrived.synchronize()
            return buffer.tolist()

        return result

    def _step(self, rows: slice) -> None:
        state = self._state[:, rows]
        self._cache.begin(state, rows)
        logits = self._decoder.step(state[TOKEN], self._cache)
        columns = state[..., None]
        noise = Keys((columns[KEY_HIGH], columns[KEY_LOW]), columns[CANDIDATE], columns[STEP]) if self._keyed else None
        seen = self._seen[rows] if self._seen is not None else None
        tokens = choose(logits, seen, self._settings, noise)  # (n, 1)
        self._out[0, rows] = tokens[:, 0].double()
        self._out[1, rows] = logits.log_softmax(-1).gather(-1, tokens)[:, 0].double()
        if seen is not None:
            at = (state[START] + state[STEP] + 1).clamp(max=seen.shape[1] - 1)
            seen.scatter_(1, at[:, None], tokens)
        state[TOKEN] = tokens[:, 0]
        state[STEP] = (state[STEP] + 1).clamp(max=self._room.new - 1)

    def _capture(self) -> None:  # pragma: no cover  wants a GPU
        """Records a step as a CUDA graph; the step that warms up has no effect on what the rows draw."""
        kept = [x.clone() for x in (self._state, self._seen) if x is not None]
        everything = slice(0, self._room.rows)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(everything)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._step(everything)
        for x, was in zip((x for x in (self._state, self._seen) if x is not None), kept, strict=True):
            x.copy_(was)

    def _sent(self, values: Sequence[Sequence[int]]) -> Tensor:
        return sent(torch.tensor([list(v) for v in values]), self._state.device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Brings values to a device without waiting for what it does."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)  # pragma: no cover  wants a GPU
