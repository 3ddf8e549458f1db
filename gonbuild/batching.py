"""Owns continuous batching: which candidate takes which row, when prompts are read, and what fits into the memory.

Candidates are drawn in a fixed number of rows, the slots. A card's prompt is read once, at a padded length of its own;
a candidate that ends leaves its row to the next one. What a candidate becomes depends on its own task alone.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gonbuild.model import Base  # before the libraries: it sets the environment that they read

# isort: split
import torch

from gonbuild.decoder import Decoder, Past, decoder_of
from gonbuild.endings import Endings
from gonbuild.errors import MachineError, Problem
from gonbuild.machine import free_bytes
from gonbuild.memory import GIB, TILE, Room, room_bytes
from gonbuild.noise import key_of
from gonbuild.settings import SamplingSettings
from gonbuild.slots import PlainCache, Slots, sent

PADDED = 32
"""Tokens, a multiple of which prompts are read at."""
READ_AT_ONCE = {"cpu": 1, "cuda": 16}
"""Prompts."""
SLOTS = {"cpu": TILE, "cuda": 512}
"""Candidates at a time where nothing else is asked for."""
SHARE = 0.9
"""Of the free memory that is taken at most."""
BEGINNINGS = 4
"""Beginnings of prompts that are remembered: a project has one."""
IN_FLIGHT = {"cpu": 0, "cuda": 1}
"""Steps that are launched before the one before them is looked at: so a GPU need not wait for its host."""


@dataclass(frozen=True)
class Task:
    """Candidates `first` to `last - 1` of a card, after a prompt's token ids."""

    card: str
    prompt: Sequence[int]
    first: int
    last: int
    shared: int = 0
    """Tokens at the start of the prompt that other cards' begin with too; the prompt alone says how many."""
    lengths: Sequence[int] = ()
    """Tokens of each candidate, whatever they say, for measuring; empty lets them end by themselves."""


@dataclass(frozen=True)
class Drawn:
    """The token ids of one candidate, the end included, with their log-probabilities in nats at temperature 1."""

    ids: list[int]
    logprobs: list[float]
    ended: bool
    """By a tag, not by the limit."""


@dataclass
class _Growing:
    """A candidate in a row; it is over once it has ended or its result no longer matters."""

    task: int
    index: int
    limit: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    started: int = 0
    """Steps launched for it."""
    over: bool = False
    ended: bool = False


def draw(
    base: Base,
    tasks: Sequence[Task],
    settings: SamplingSettings,
    *,
    slots: int = 0,
    keyed: bool = True,
    free: Callable[[str], int] = free_bytes,
) -> Iterator[tuple[Task, list[Drawn]]]:
    """Yields each task with its candidates, in their order.

    `slots` is the most candidates at a time, 0 for as many as suit the device. Without `keyed` the noise comes from
    torch's own stream, for measuring. `free` tells the bytes that a kind of device has left.

    Raises:
        MachineError: memory is too small for a single slot, or runs out twice.
    """
    decoder, done, halved = decoder_of(base.model), 0, False
    while done < len(tasks):
        room = plan_room(base, tasks, settings, slots, free(base.device.type))
        try:
            for task, drawn in _Run(base, decoder, tasks[done:], settings, room, keyed=keyed).results():
                done += 1
                yield task, drawn
        except torch.OutOfMemoryError as e:
            if halved or room.slots == 1:
                what = f"memory ran out while {room.slots} candidates were drawn at once"
                raise MachineError(Problem("", what, "Lower machine.slots or sampling.max_new_tokens.")) from e
            slots, halved = room.slots // 2, True
        if halved and base.device.type == "cuda":  # pragma: no cover  wants a GPU
            torch.cuda.empty_cache()  # here, since the error held on to what the run had taken


def plan_room(base: Base, tasks: Sequence[Task], settings: SamplingSettings, slots: int, free: int) -> Room:
    """Plans as many slots as asked for, or half of it and so on, until they fit into the free bytes.

    Raises:
        MachineError: not even one does.
    """
    device = base.device.type
    prompt = max(_padded(len(task.prompt)) for task in tasks)
    new = max(max(task.lengths, default=settings.max_new_tokens) for task in tasks)
    each = sum(task.last - task.first for task in tasks) / len(tasks)
    count = slots or SLOTS[device]
    while True:
        rows = -(-count // TILE) * TILE if device == "cpu" else count
        room = Room(count, rows, prompt, new, math.ceil(1.5 * count / each) + READ_AT_ONCE[device])
        need = room_bytes(decoder_of(base.model).shape, base.dtype.itemsize, room, settings.top_k)
        if need <= free * SHARE:
            return room
        if count == 1:
            what = f"memory has {free / GIB:.1f} GiB free, and drawing one candidate at a time needs {need / GIB:.1f}"
            raise MachineError(Problem("", what, "Lower sampling.max_new_tokens, or shorten the prompts."))
        count //= 2


class _Run:
    """Draws tasks in one set of slots."""

    def __init__(
        self,
        base: Base,
        decoder: Decoder,
        tasks: Sequence[Task],
        settings: SamplingSettings,
        room: Room,
        *,
        keyed: bool,
    ) -> None:
        self._base, self._decoder, self._tasks, self._settings = base, decoder, tasks, settings
        self._cache = _cache(decoder, room, base.device)
        self._slots = Slots(decoder, self._cache, room, settings, base.device, keyed=keyed)
        self._endings = Endings(base.tokenizer)
        self._unread = iter(range(len(tasks)))
        self._waiting: deque[_Growing] = deque()
        self._rows: list[_Growing | None] = [None] * room.slots
        self._beginnings: dict[tuple[int, ...], Past] = {}
        self._begins: dict[int, tuple[int, ...]] = {}  # what stands at the start of each place
        self._free_places = deque(range(room.prompts))
        self._places: dict[int, int] = {}
        self._drawn: dict[int, dict[int, Drawn]] = {}
        self._flying: deque[tuple[list[_Growing | None], Callable[[], list[list[float]]]]] = deque()

    @torch.inference_mode()
    def results(self) -> Iterator[tuple[Task, list[Drawn]]]:
        """Yields each task with its candidates, in order."""
        for number, task in enumerate(self._tasks):
            while len(self._drawn.get(number, ())) < task.last - task.first:
                self._advance()
            drawn = self._drawn.pop(number)
            yield task, [drawn[index] for index in range(task.first, task.last)]

    def _advance(self) -> None:
        """Fills the free rows, launches a step, and looks at the one that has come back."""
        self._fill()
        live = [row for row, candidate in enumerate(self._rows) if candidate is not None]
        if live:  # pragma: no branch  on a GPU alone steps fly when no row is left
            self._flying.append((list(self._rows), self._slots.launch(live)))
            for candidate in filter(None, self._rows):
                candidate.started += 1
            # A candidate that reaches its limit need not be looked at to leave its row.
            self._rows = [c if c is not None and c.started < c.limit else None for c in self._rows]
        while len(self._flying) > (IN_FLIGHT[self._base.device.type] if live else 0):
            self._settle(*self._flying.popleft())

    def _settle(self, rows: Sequence[_Growing | None], result: Callable[[], list[list[float]]]) -> None:
        """Gives candidates the tokens of a step; what came after an end is thrown away."""
        tokens, logprobs = result()
        for row, candidate in enumerate(rows):
            if candidate is None or candidate.over:
                continue
            candidate.ids.append(int(tokens[row]))
            candidate.logprobs.append(logprobs[row])
            forced = bool(self._tasks[candidate.task].lengths)
            candidate.ended = not forced and self._endings.found(candidate.ids)
            candidate.over = candidate.ended or len(candidate.ids) == candidate.limit
            if candidate.over:
                self._finish(candidate)
                if self._rows[row] is candidate:
                    self._rows[row] = None

    def _finish(self, candidate: _Growing) -> None:
        task = self._tasks[candidate.task]
        drawn = self._drawn.setdefault(candidate.task, {})
        drawn[candidate.index] = Drawn(candidate.ids, candidate.logprobs, candidate.ended)
        if len(drawn) == task.last - task.first:
            self._free_places.append(self._places.pop(candidate.task))

    def _fill(self) -> None:
        """Lets waiting candidates begin in the free rows, and reads prompts when none waits."""
        started: dict[int, _Growing] = {}
        for row in [row for row, candidate in enumerate(self._rows) if candidate is None]:
            if not self._waiting:
                self._read()
            if not self._waiting:
                break
            self._rows[row] = started[row] = self._waiting.popleft()
        if started:
            tasks = [self._tasks[candidate.task] for candidate in started.values()]
            states = [
                (
                    t.prompt[-1],
                    0,
                    len(t.prompt) - 1,
                    self._places[c.task],
                    c.index,
                    *key_of(t.card, self._settings.seed),
                )
                for c, t in zip(started.values(), tasks, strict=True)
            ]
            self._slots.start(list(started), states, [task.prompt for task in tasks])

    def _read(self) -> None:
        """Reads the next prompts, as many as have a place: all but the last token, which the first step reads."""
        numbers = list(islice(self._unread, min(len(self._free_places), READ_AT_ONCE[self._base.device.type])))
        alike: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for number in numbers:
            task = self._tasks[number]
            self._places[number] = self._free_places.popleft()
            start = max(min(task.shared, len(task.prompt) - 2), 0) // PADDED * PADDED
            alike.setdefault((tuple(task.prompt[:start]), _padded(len(task.prompt) - start)), []).append(number)
            for at, index in enumerate(range(task.first, task.last)):
                limit = task.lengths[at] if task.lengths else self._settings.max_new_tokens
                self._waiting.append(_Growing(number, index, limit))
        for (beginning, length), group in alike.items():
            self._read_alike(beginning, length, group)

    def _read_alike(self, start: tuple[int, ...], length: int, group: Sequence[int]) -> None:
        """Reads prompts that begin alike and whose rest is padded to the same length: a shape of its own for each."""
        texts = [self._tasks[number].prompt[len(start) : -1] for number in group]
        texts += [()] * (READ_AT_ONCE[self._base.device.type] - len(texts))
        past = self._beginning(start)
        _, read = self._decoder.read(self._ids([[*text, *[0] * (length - len(text))] for text in texts]), past)
        places = [self._places[number] for number in group]
        if new := [place for place in places if start and self._begins.get(place) != start]:
            self._cache.put(self._ids(new), 0, past)
            self._begins |= dict.fromkeys(new, start)
        self._cache.put(self._ids(places), len(start), [[x[: len(group)] for x in layer] for layer in read])

    def _beginning(self, start: tuple[int, ...]) -> Past:
        """Returns the keys and values of what prompts begin with; the last few beginnings are remembered."""
        if start and start not in self._beginnings:
            if len(self._beginnings) == BEGINNINGS:
                del self._beginnings[next(iter(self._beginnings))]
            self._beginnings[start] = self._decoder.read(self._ids([start]))[1]
        return self._beginnings[start] if start else ()

    def _ids(self, values: Any) -> torch.Tensor:
        return sent(torch.tensor(values), self._base.device)


def _cache(decoder: Decoder, room: Room, device: torch.device) -> Any:
    if device.type == "cpu":
        return PlainCache(decoder, room, device)
    from gonbuild.kernels import KernelCache  # pragma: no cover  wants a GPU

    return KernelCache(decoder, room, device)  # pragma: no cover  wants a GPU


def _padded(tokens: int) -> int:
    """Returns the length at which a prompt's tokens but the last are read."""
    return max(-(-(tokens - 1) // PADDED), 1) * PADDED
