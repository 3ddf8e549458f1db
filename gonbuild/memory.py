"""Owns the estimate of how much memory a step of a model takes; loads nothing and looks at no machine.

Each part is a formula over the base's shape and the settings; a constant that was measured says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gonbuild.errors import one_of
from gonbuild.settings import AdapterSettings, ModelSettings, SamplingSettings

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}

NF4_BYTES = 0.5
SCALE_BYTES = {True: 1 / 64 + 4 / (64 * 256), False: 4 / 64}
"""Of nf4, per weight: a scale for 64 weights, in 8 bits with a float32 for 256 of them (double), or in float32."""
ADAMW_BYTES = 8
"""Two float32 states per LoRA weight. Paged ones may move to the host, which is slow: they are counted all the same."""
NORM_BYTES = 6
"""Per token and hidden unit of a layer: what its two norms keep. Measured: 18 GiB without checkpointing on an H100."""
LOGIT_BYTES = 8
"""Per learned token and word of the vocabulary: float32 logits and their gradient; both once more as weights are."""
MASK_BYTES = 5
"""Per pair of tokens in a pass: the mask of who sees whom, in several formats while it is made."""
SCORE_BYTES = 12
"""Per generated token and word of the vocabulary: three float32 copies of the logits when texts are scored."""
CHOICE_BYTES = 80
"""Per generated token and word that may be chosen: scores and noise in 64 bits, with what makes them."""
MERGED_SLOTS = 64
"""Slots that must fit beside a merged copy of the layers; with fewer, layers in 4 bits and more slots are faster."""
TILE = 64
"""Rows that a CPU reads at once, whatever the number of slots: a product of other shape may give a row other bits."""
RUNTIME_GIB = {"cuda": 0.3, "cpu": 0.1}
"""The matrix library's work space and holes in the allocator's memory; a CPU took 0.34 GiB to train the embedded base
and 0.66 GiB to score 32 candidates of 192 tokens, which the estimate is above."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with grouped-query attention and a gated MLP, as config.json names them."""

    hidden: int
    inner: int
    layers: int
    queries: int
    """Heads times their width."""
    keys: int
    """Key-value heads times their width."""
    vocabulary: int
    tied: bool
    """The embedding is the output layer too."""

    @property
    def linear(self) -> int:
        """Weights of all layers' matrices."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices.values())

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Returns (inputs, outputs) of each matrix of a layer, by the module's name."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }


KNOWN = {"mistralai/Mistral-7B-v0.1": Shape(4096, 14336, 32, 4096, 1024, 32000, tied=False)}
"""Shapes of bases that may not be on this machine yet."""
SHARED_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Modules that read the same tensor as another."""
TYPICAL_ROW = (182, 78, 61)
"""Tokens, shared ones of them, learned ones: the game's 24 rows in a vocabulary that knows no Vietnamese."""


@dataclass(frozen=True)
class Pass:
    """What the model reads at once while it trains."""

    rows: int
    tokens: int
    """Of the packed sequence: what all rows begin with counts once."""
    learned: int
    """Of these, the ones that logits are made for."""


@dataclass(frozen=True)
class Part:
    """One share of the need, GiB, and the setting that lowers it."""

    what: str
    gib: float
    cure: str = ""


@dataclass(frozen=True)
class Need:
    """What a step needs on its device."""

    step: str
    parts: tuple[Part, ...]

    @property
    def gib(self) -> float:
        return sum(part.gib for part in self.parts)

    def __str__(self) -> str:
        parts = ", ".join(f"{part.gib:.1f} {part.what}" for part in self.parts if part.gib >= 0.05)
        return f"{self.step} needs about {self.gib:.1f} ({parts})"

    @property
    def cure(self) -> str:
        """Names the settings that lower the two largest parts that any lowers; empty where none does."""
        cures = [part.cure for part in sorted(self.parts, key=lambda part: -part.gib) if part.cure]
        return f"lower {one_of(cures[:2])}" if cures else ""


@dataclass(frozen=True)
class Room:
    """What is held while candidates are drawn."""

    slots: int
    """Candidates at a time."""
    rows: int
    """Of a step, which has slots for some of them."""
    prompt: int
    """Tokens of a prompt."""
    new: int
    """Tokens of a candidate."""
    prompts: int
    """Prompts at a time."""


def read_shape(config: Any) -> Shape | None:
    """Returns the shape that a parsed config.json tells, None of a base of another kind."""
    if not isinstance(config, Mapping):
        return None
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    sizes = [size for name in names if isinstance(size := config.get(name), int) and size > 0]
    if len(sizes) < len(names):
        return None
    hidden, inner, layers, heads, vocabulary = sizes
    width = config.get("head_dim") or hidden // heads
    keys = (config.get("num_key_value_heads") or heads) * width
    return Shape(hidden, inner, layers, heads * width, keys, vocabulary, bool(config.get("tie_word_embeddings")))


def largest_pass(rows: Sequence[tuple[int, int]], shared: int, batch_size: int) -> Pass:
    """Returns the largest pass of rows, (tokens, learned tokens) each, that all begin with the same `shared` tokens."""
    count = min(len(rows), batch_size)
    longest = sum(sorted((tokens for tokens, _ in rows), reverse=True)[:count])
    learned = sum(sorted((learned for _, learned in rows), reverse=True)[:count])
    return Pass(count, longest - shared * (count - 1), learned)


def padded_pass(rows: Sequence[tuple[int, int]], count: int) -> Pass:
    """Returns a pass of `count` rows, (tokens, learned tokens) each, padded to the longest, as trl reads them."""
    return Pass(count, count * max(tokens for tokens, _ in rows), count * max(learned for _, learned in rows))


def typical_pass(batch_size: int) -> Pass:
    """Returns a pass of rows as the game's are, for whoever has not counted any."""
    tokens, shared, learned = TYPICAL_ROW
    return largest_pass([(tokens, learned)] * batch_size, shared, batch_size)


def training_need(shape: Shape, model: ModelSettings, adapter: AdapterSettings, read: Pass) -> Need:
    """Estimates what a training takes on its device."""
    size = BYTES[model.dtype]
    # Over a 4-bit base trl casts the LoRA matrices to what is computed in; else PEFT keeps them in float32.
    each = size if model.quantization == "nf4" else 4
    logits = read.learned * shape.vocabulary * (LOGIT_BYTES + 2 * size)
    in_layer = read.tokens * _layer_bytes(shape, adapter, size)
    if adapter.gradient_checkpointing:
        # Each layer's input; and what one layer computes, with a matrix as it is and as a gradient or, before, logits.
        inside = in_layer + 2 * shape.hidden * shape.inner * size
        rows = read.tokens * shape.layers * shape.hidden * size + max(inside, logits)
    else:
        rows = _adapted_layers(shape, adapter) * in_layer + logits
    rows += read.tokens**2 * MASK_BYTES
    many = read.rows > 1
    parts = (
        _weights(shape, model),
        Part("adapter with optimizer", _lora(shape, adapter) * (2 * each + ADAMW_BYTES) / GIB, "adapter.rank"),
        Part(
            f"for {read.rows} rows at once" if many else "for a row",
            rows / GIB,
            "adapter.batch_size (and raise adapter.accumulation by as much)" if many else "",
        ),
        Part("work space", RUNTIME_GIB[model.device]),
    )
    return Need("training", parts)


def generation_need(
    shape: Shape, model: ModelSettings, adapter: AdapterSettings, sampling: SamplingSettings, prompt: int
) -> Need:
    """Estimates what drawing takes on its device at least: in one slot; `prompt` in tokens.

    Where there is more, more slots are used, and the adapter is merged.
    """
    size, weights = BYTES[model.dtype], _weights(shape, model)
    carried = _lora(shape, adapter) * (size if model.quantization == "nf4" else 4)
    # A card's candidates are scored in one pass after they were drawn: the logits of each token, and a layer's work.
    scored = sampling.candidates * sampling.max_new_tokens * (shape.vocabulary * SCORE_BYTES + 3 * shape.inner * size)
    room = Room(1, TILE if model.device == "cpu" else 1, prompt, sampling.max_new_tokens, 2)
    parts = (
        weights,
        Part("adapter", carried / GIB),
        Part(f"to score {sampling.candidates} candidates", scored / GIB, "sampling.candidates"),
        Part("for a slot", room_bytes(shape, size, room, sampling.top_k) / GIB, "sampling.max_new_tokens"),
        Part("work space", RUNTIME_GIB[model.device]),
    )
    return Need("drawing candidates", parts)


def merged_bytes(shape: Shape, model: ModelSettings, sampling: SamplingSettings) -> int:
    """Estimates what a copy of all layers in full takes, with room to draw in `MERGED_SLOTS`."""
    prompt, size = TYPICAL_ROW[0], BYTES[model.dtype]
    room = Room(MERGED_SLOTS, MERGED_SLOTS, prompt, sampling.max_new_tokens, MERGED_SLOTS)
    copied = (shape.linear + shape.vocabulary * shape.hidden) * size
    return copied + room_bytes(shape, size, room, sampling.top_k)


def room_bytes(shape: Shape, size: int, room: Room, top_k: int) -> int:
    """Estimates what drawing takes beside the weights, of `size` bytes a number."""
    positions = room.rows * room.new + room.prompts * room.prompt
    cached = positions * shape.layers * 2 * shape.keys * size
    chosen = min(top_k or shape.vocabulary, shape.vocabulary) * CHOICE_BYTES
    step = room.rows * (shape.vocabulary * (SCORE_BYTES + size) + chosen + 4 * shape.inner * size)
    return cached + step


def merging_need(shape: Shape, model: ModelSettings, adapter: AdapterSettings) -> Need:
    """Estimates what writing a merged model takes of the CPU's memory: all weights in full, one of them as merged."""
    full = model.model_copy(update={"quantization": "none"})
    largest = max(inputs * outputs for inputs, outputs in shape.matrices.values()) * (BYTES[model.dtype] + 2 * 4)
    parts = (
        _weights(shape, full),
        Part("adapter", _lora(shape, adapter) * 4 / GIB),
        Part("work space", largest / GIB + RUNTIME_GIB["cpu"]),
    )
    return Need("merging", parts)


def _weights(shape: Shape, model: ModelSettings) -> Part:
    size = BYTES[model.dtype]
    each = NF4_BYTES + SCALE_BYTES[model.double_quantization] if model.quantization == "nf4" else size
    embedding = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)  # which nf4 leaves alone
    return Part("weights", (shape.linear * each + embedding * size) / GIB)


def _adapted_layers(shape: Shape, adapter: AdapterSettings) -> int:
    return min(adapter.last_layers or shape.layers, shape.layers)


def _lora(shape: Shape, adapter: AdapterSettings) -> int:
    """Counts the weights of the LoRA matrices; targets of another kind of base count nothing."""
    ends = sum(sum(shape.matrices.get(name, (0, 0))) for name in adapter.targets)
    return _adapted_layers(shape, adapter) * adapter.rank * ends


def _layer_bytes(shape: Shape, adapter: AdapterSettings, size: int) -> int:
    """Returns what one adapted layer keeps for its gradients, bytes per token."""
    widths = {name: shape.matrices[name][0] for name in adapter.targets if name in shape.matrices}
    if adapter.dropout:  # every LoRA has an input of its own, and a byte for what was dropped of it
        kept = sum(widths.values()) * (size + 1)
    else:
        kept = sum({SHARED_INPUT.get(name, name): width for name, width in widths.items()}.values()) * size
    attention = size * (2 * (shape.queries + 2 * shape.keys) + shape.queries)  # before and after the rotation, and out
    mlp = size * 3 * shape.inner  # gate, its activation, up
    return kept + attention + mlp + NORM_BYTES * shape.hidden
