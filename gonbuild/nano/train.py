"""Train gon-nano, the embedded base model, and its tokenizer from the corpus and the card stories, in one command.

A tool, not part of the package: nothing in gonbuild may import it. It fetches nothing and reads only the folders it
is given, the templates and the held-out names.

    python gonbuild/nano/train.py --corpus DIR --stories DIR --cards FILE_OR_DIR --out DIR

Two phases. The corpus phase reads running text at a constant learning rate. The story phase mixes story rows with
running text while the rate falls to zero. Both are run for the teachers first: two of the model's own size, which share
its corpus phase, and two that are larger. The model's own story phase then learns from the stories and from the
teachers' mean probabilities, which lets it pass over the few stories twice as often before it begins to recite them.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import lzma
import math
import random
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch
import torch.nn.functional as F
import yaml
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from gonbuild.augment import Told, vary
from gonbuild.quantized import write_weights

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE.parents[1] / "templates"
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, END, ASSISTANT = 0, 1, 4
# A newline stands alone, so that a prompt's tokens are a prefix of prompt + story; so does each digit.
PIECES = r"\n|\p{N}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]+|\s"
# Not free everywhere, machine-translated, technical or archaic: never read, even where the folder holds them.
LEFT_OUT = ("pd-", "story-thach-lam", "story-luan-ly", "tech-", "mt-")
# How often a corpus file counts in the mix; files not named count once.
CORPUS_WEIGHTS = {"story-": 4, "nature-": 2, "narrative-": 1, "sentences-": 2}
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that changes the weights; the defaults are the shipped model's."""

    vocabulary: int = 7680
    width: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 3
    mlp: int = 1024
    context: int = 512
    """Tokens in a row of running text."""
    corpus_rows: int = 64
    """Rows of running text per step of the corpus phase."""
    corpus_steps: int = 5000
    warmup_steps: int = 200
    story_passes: float = 8.0
    """How often the story phase sees each plain story."""
    story_rows: int = 128
    """Story rows per step of the story phase."""
    story_tokens: int = 176
    """Length that story rows are padded to; longer rows are dropped."""
    story_weight: float = 0.5
    """Share of the story rows in the loss of a story-phase step, the rest is running text."""
    story_corpus_rows: int = 32
    """Rows of running text per step of the story phase."""
    story_rate: float = 1.0
    """Learning rate at the start of the story phase, as a factor of the corpus phase's."""
    rich_share: float = 0.35
    """Share of the rich stories that a pass sees."""
    no_card: float = 0.1
    """Share of story rows without the user turn, for ranking by log p(story | card) - log p(story | no card)."""
    substitute: float = 0.5
    """Chance that a row's numbers and actors are exchanged, in effect and story alike."""
    teachers: int = 2
    """Teachers of each of the two sizes; with 0 the model learns from the stories alone, best in 4 passes."""
    teacher_width: int = 512
    """Width of the larger teachers, and so on below; they have as many layers as the model."""
    teacher_heads: int = 8
    teacher_kv_heads: int = 4
    teacher_mlp: int = 1408
    teacher_dropout: float = 0.15
    teacher_corpus_steps: int = 5000
    teacher_passes: float = 4.0
    """How often the story phase of a teacher, of either size, sees each plain story."""
    distil: float = 0.7
    """Share of the teachers' soft targets in the loss of a story row, where there are teachers."""
    dropout: float = 0.1
    """Dropout after embedding, attention and MLP in the story phase; the corpus phase has none."""
    matrix_rate: float = 0.02
    """Muon's learning rate, for the matrices inside the layers."""
    vector_rate: float = 0.004
    """AdamW's learning rate, for embedding and norms."""
    weight_decay: float = 0.1
    corpus_seed: int = 1
    """Of the first weights and the running text of the corpus phase."""
    seed: int = 1
    """Of the story phase."""


CORPUS_FIELDS = (
    *("vocabulary", "width", "layers", "heads", "kv_heads", "mlp", "context", "corpus_rows", "corpus_steps"),
    *("warmup_steps", "matrix_rate", "vector_rate", "weight_decay", "corpus_seed"),
)
"""What the corpus phase depends on; models that differ in nothing of it share one."""
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Card:
    """A card of the training set with its stories."""

    name: str
    type: str
    effect: str
    stories: tuple[str, ...]
    source: str

    @property
    def plain(self) -> bool:
        """Whether the stories are in the plain style."""
        return self.source.startswith("plain-")


def nfc(text: str) -> str:
    """Return the text in NFC."""
    return unicodedata.normalize("NFC", text)


def read_corpus(folder: Path) -> dict[str, list[str]]:
    """Read the corpus: file stem -> documents, without the files that are left out."""
    documents = {}
    for path in sorted(folder.glob("*.txt.xz")):
        if not path.name.startswith(LEFT_OUT):
            text = nfc(lzma.decompress(path.read_bytes()).decode())
            documents[path.name.removesuffix(".txt.xz")] = [d.strip() for d in text.split("\n\n") if d.strip()]
    return documents


def read_stories(folder: Path) -> list[Card]:
    """Read the story files, a card a line."""
    cards = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(nfc(line))
            cards.append(Card(row["name"], row["type"], row["effect"], tuple(row["stories"]), path.stem))
    return cards


def read_paragraphs(folder: Path) -> list[str]:
    """Read the plain running text: a paragraph's sentences joined to one line."""
    text = "\n\n".join(nfc(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("plain-text-*.txt")))
    return [" ".join(p.split("\n")) for p in re.split(r"\n\n+", text.strip()) if p]


def read_game_cards(path: Path) -> list[Card]:
    """Read card definitions (YAML, a file or a folder): sampled from in the end, never trained on."""
    files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
    cards = []
    for file in files:
        # BaseLoader reads every scalar as a string: an effect of +2 must not become an int.
        rows = (yaml.load(nfc(file.read_text(encoding="utf-8")), Loader=yaml.BaseLoader) or {}).get("cards", [])
        cards += [Card(row["name"], row["type"], row["effect"], (), file.stem) for row in rows]
    return cards


def hold_out(cards: Sequence[Card], game: Sequence[Card], names: Sequence[str]) -> tuple[list[Card], list[Card]]:
    """Split the cards into training and held-out ones, by name, and refuse the game's own names.

    A name is held out in all files that it stands in.

    Raises:
        ValueError: a card bears the name of one of the game's cards, or a held-out name stands in no file.
    """

    def key(name: str) -> str:
        return name.casefold().strip()

    known, own = {key(card.name) for card in cards}, {key(card.name) for card in game}
    if taken := sorted(known & own):
        raise ValueError(f"the game's own names must not be trained on: {', '.join(taken)}")
    held = {key(name) for name in names}
    if missing := sorted(held - known):
        raise ValueError(f"no story file holds these held-out names: {', '.join(missing)}")
    return [c for c in cards if key(c.name) not in held], [c for c in cards if key(c.name) in held]


def varied(card: Card, story: str, recipe: Recipe, rng: random.Random) -> tuple[Card, str]:
    """Return the card and the story, varied by chance as the build's own augment step does."""
    told = vary(Told(card.name, card.effect, story), rng, recipe.substitute)
    return dataclasses.replace(card, name=told.name, effect=told.effect), told.story


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE: any UTF-8 comes back byte for byte, nothing is added, a syllable is mostly one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer=trainer)
    return wrap_tokenizer(core)


def wrap_tokenizer(core: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap the tokenizer for transformers, with no template and no clean-up of spaces."""
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL[END],
        pad_token=SPECIAL[PAD],
        additional_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )


def tokenizer_texts(corpus: dict[str, list[str]], cards: Sequence[Card]) -> list[str]:
    """Return the tokenizer's training text: the corpus, and the stories often enough to make their words one token."""
    texts = [document for name in sorted(corpus) for document in corpus[name]]
    for card in cards:
        for story in card.stories:
            texts += [f"{card.name}\n{card.effect}\n{story}"] * (12 if card.plain else 3)
            texts += [story.title()] * (2 if card.plain else 0)  # card names write each word with a capital
    return texts


class Prompts:
    """Renders rows from the repository's templates."""

    def __init__(self, folder: Path = TEMPLATES) -> None:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
        names = ("system.txt", "card.txt", "chat.jinja")
        self._read = {n: environment.from_string((folder / n).read_text(encoding="utf-8")) for n in names}
        self._system = self._read["system.txt"].render().strip()

    def render(self, card: Card | None) -> str:
        """Return the prompt up to the story's first character; without a card, the user turn is left out."""
        messages = [{"role": "system", "content": self._system}]
        if card is not None:
            messages.append({"role": "user", "content": self._read["card.txt"].render(card=card).strip()})
        return self._read["chat.jinja"].render(messages=messages, add_generation_prompt=True)


def encode_rows(tokenizer: PreTrainedTokenizerFast, rows: Sequence[tuple[str, str]], length: int) -> torch.Tensor:
    """Encode (prompt, story) rows to (rows, 2, length): tokens, and labels that count the story and its end alone."""
    encoded = tokenizer([prompt + story + SPECIAL[END] for prompt, story in rows])["input_ids"]
    encoded = [ids for ids in encoded if len(ids) <= length]
    packed = torch.full((len(encoded), 2, length), PAD)
    packed[:, 1] = IGNORED
    for row, ids in zip(packed, encoded, strict=True):
        start = ids.index(ASSISTANT) + 2  # "<|assistant|>" and the newline belong to the prompt
        row[0, : len(ids)] = torch.tensor(ids)
        row[1, start : len(ids)] = row[0, start : len(ids)]
    return packed


class Data:
    """The training data, encoded: running text as one long row of tokens, story rows made anew for each pass."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        corpus: dict[str, list[str]],
        paragraphs: Sequence[str],
        cards: Sequence[Card],
    ) -> None:
        self.tokenizer, self.cards, self.prompts = tokenizer, cards, Prompts()
        self._passes: dict[int, torch.Tensor] = {}
        parts: list[int] = []
        for name in sorted(corpus):
            ids = self._flatten(corpus[name])
            parts += ids * next((w for prefix, w in CORPUS_WEIGHTS.items() if name.startswith(prefix)), 1)
        self.text = torch.tensor(parts + self._flatten(paragraphs) * 4, dtype=torch.int32)

    def _flatten(self, documents: Sequence[str]) -> list[int]:
        return [token for ids in self.tokenizer(list(documents))["input_ids"] for token in [*ids, END]]

    def to(self, device: str) -> Data:
        """Move the running text to the device."""
        self.text = self.text.to(device)
        return self

    def windows(self, rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
        """Return (rows, 2, length) tokens and labels of running text from random places."""
        starts = torch.randint(0, len(self.text) - length, (rows, 1), generator=generator).to(self.text.device)
        tokens = self.text[starts + torch.arange(length, device=starts.device)].long()  # (rows, length)
        return torch.stack([tokens, tokens], 1)

    def story_pass(self, recipe: Recipe, number: int) -> torch.Tensor:
        """Return a numbered pass over the stories, (rows, 2, length), augmented; the same one whatever the seed."""
        if number in self._passes:
            return self._passes[number]
        rng = random.Random(77000 + number)
        rows = []
        for card in self.cards:
            for story in card.stories:
                if card.plain or rng.random() < recipe.rich_share:
                    new, text = varied(card, story, recipe, rng)
                    rows.append((self.prompts.render(None if rng.random() < recipe.no_card else new), text))
        rng.shuffle(rows)
        self._passes[number] = encode_rows(self.tokenizer, rows, recipe.story_tokens)
        return self._passes[number]


def corpus_batches(data: Data, recipe: Recipe) -> Iterator[list[tuple[float, torch.Tensor]]]:
    """Yield the corpus phase's steps: (weight, batch) pairs."""
    generator = torch.Generator().manual_seed(recipe.corpus_seed)
    while True:
        yield [(1.0, data.windows(recipe.corpus_rows, recipe.context, generator))]


def story_batches(data: Data, recipe: Recipe) -> Iterator[list[tuple[float, torch.Tensor]]]:
    """Yield the story phase's steps, pass after pass: story rows and running text.

    Raises:
        ValueError: a pass has fewer rows than a step takes.
    """
    if len(data.story_pass(recipe, 0)) < recipe.story_rows:
        rows = len(data.story_pass(recipe, 0))
        raise ValueError(f"{rows} story rows of at most {recipe.story_tokens} tokens; a step takes {recipe.story_rows}")
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    number = 0
    while True:
        rows = data.story_pass(recipe, number)
        order = torch.Generator().manual_seed(recipe.seed * 1000 + number)
        rows = rows[torch.randperm(len(rows), generator=order)].to(data.text.device)
        number += 1
        for start in range(0, len(rows) - recipe.story_rows + 1, recipe.story_rows):
            batch = [(recipe.story_weight, rows[start : start + recipe.story_rows])]
            if recipe.story_weight < 1:
                text = data.windows(recipe.story_corpus_rows, recipe.context, generator)
                batch.append((1 - recipe.story_weight, text))
            yield batch


def build_model(recipe: Recipe) -> MistralForCausalLM:
    """Build the model, seeded; projections into the residual stream start at zero: depth does no harm at first."""
    torch.manual_seed(recipe.corpus_seed)
    config = MistralConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=recipe.context,
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
        use_cache=True,
    )
    model = MistralForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    if recipe.dropout:
        # Before anything is compiled: a compiled model does not notice hooks that come later.
        add_dropout(model, recipe.dropout)
    return model


def add_dropout(model: MistralForCausalLM, share: float) -> None:
    """Add dropout after embedding, attention and MLP, active in training mode; Mistral has attention dropout alone."""

    def drop(module: torch.nn.Module, _inputs: tuple, output: torch.Tensor | tuple) -> torch.Tensor | tuple:
        if isinstance(output, tuple):
            return (F.dropout(output[0], share, module.training), *output[1:])
        return F.dropout(output, share, module.training)

    for part in [model.model.embed_tokens, *(p for x in model.model.layers for p in (x.self_attn, x.mlp))]:
        part.register_forward_hook(drop)


def orthogonalize(update: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of each of (n, rows, columns) near 1, by five Newton-Schulz steps (Jordan 2024)."""
    wide = update.size(1) <= update.size(2)
    x = update if wide else update.mT
    x = x.bfloat16() if x.is_cuda else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x if wide else x.mT).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized, for the matrices inside the layers; those of one shape are updated together."""

    def __init__(
        self, matrices: Sequence[torch.nn.Parameter], rate: float, weight_decay: float, *, compiled: bool
    ) -> None:
        shapes = sorted({tuple(m.shape) for m in matrices})
        groups = [{"params": [m for m in matrices if tuple(m.shape) == shape]} for shape in shapes]
        super().__init__(groups, {"lr": rate, "weight_decay": weight_decay, "momentum": 0.95})
        self._orthogonalize = torch.compile(orthogonalize, dynamic=False) if compiled else orthogonalize

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002  torch.optim.Optimizer's own signature
        """Update the matrices."""
        for group in self.param_groups:
            parameters = group["params"]
            gradient = torch.stack([p.grad for p in parameters])  # (n, rows, columns)
            momentum = self.state[parameters[0]].setdefault("momentum", torch.zeros_like(gradient))
            momentum.lerp_(gradient, 1 - group["momentum"])
            update = self._orthogonalize(gradient.lerp(momentum, group["momentum"]))
            scale = max(1.0, gradient.size(1) / gradient.size(2)) ** 0.5
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-group["lr"] * scale)


def build_optimizers(model: MistralForCausalLM, recipe: Recipe, *, compiled: bool) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers and AdamW for the embedding and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1] + [model.model.embed_tokens.weight]
    return [
        Muon(matrices, recipe.matrix_rate, recipe.weight_decay, compiled=compiled),
        torch.optim.AdamW(others, recipe.vector_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=others[0].is_cuda),
    ]


def logits_of(model: MistralForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Return the logits of (rows, 2, length): what stands at a position predicts the next; (rows * (length - 1), v)."""
    # Without a mask: rows are padded on the right, which causal attention never sees.
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.is_cuda):
        logits = model(input_ids=batch[:, 0], use_cache=False).logits  # (rows, length, vocabulary)
    return logits[:, :-1].flatten(0, 1).float()


def loss_of(model: MistralForCausalLM, batch: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Return the cross-entropy of the labelled tokens of (rows, 2, length)."""
    return F.cross_entropy(logits_of(model, batch), batch[:, 1, 1:].flatten(), reduction=reduction)


def soft_loss_of(
    model: MistralForCausalLM, teachers: Sequence[MistralForCausalLM], batch: torch.Tensor, share: float
) -> torch.Tensor:
    """Return the cross-entropy of the labelled tokens against their labels and the teachers' mean probabilities."""
    labels = batch[:, 1, 1:].flatten()
    with torch.no_grad():
        targets = torch.stack([logits_of(teacher, batch).softmax(-1) for teacher in teachers]).mean(0)
    logs = logits_of(model, batch).log_softmax(-1)
    counted = labels != IGNORED
    soft = -((targets * logs).sum(-1) * counted).sum() / counted.sum()
    return share * soft + (1 - share) * F.nll_loss(logs, labels)


def train(
    model: MistralForCausalLM,
    batches: Iterator[list[tuple[float, torch.Tensor]]],
    steps: int,
    rate: Callable[[int], float],
    recipe: Recipe,
    *,
    teachers: Sequence[MistralForCausalLM] = (),
    dropout: bool = False,
    compiled: bool = False,
    report: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the model in place for some steps and return each step's loss.

    `rate` gives each step's learning rate as a factor of the recipe's; `report` is called every hundredth step.
    The same model, batches, seed and number of threads give the same losses on a CPU.
    """
    torch.manual_seed(recipe.seed)  # for dropout
    optimizers = build_optimizers(model, recipe, compiled=compiled)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    hard = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    soft = torch.compile(soft_loss_of, dynamic=False) if compiled else soft_loss_of
    model.train(dropout)  # dropout is all that training mode changes
    losses = []
    for step in range(steps):
        total = torch.zeros((), device=next(model.parameters()).device)
        for number, (weight, batch) in enumerate(next(batches)):
            distil = teachers and number == 0  # the story rows come first
            loss = soft(model, teachers, batch, recipe.distil) if distil else hard(model, batch)
            loss = loss * weight
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, base in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = base * rate(step)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(total)
        if report and (step % 100 == 0 or step == steps - 1):
            report(step, total.item())
    model.eval()
    return [loss.item() for loss in losses]


def corpus_rate(recipe: Recipe) -> Callable[[int], float]:
    """Return the corpus phase's rate: a warm-up, then constant; the story phase brings it down."""
    return lambda step: min(1.0, (step + 1) / max(1, recipe.warmup_steps))


def story_rate(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return the story phase's rate: a short warm-up of the fresh momentum, then a straight line to zero."""
    return lambda step: recipe.story_rate * min(1.0, (step + 1) / 20) * (1 - step / steps)


@torch.no_grad()
def bits_per_byte(model: MistralForCausalLM, data: Data, cards: Sequence[Card]) -> float:
    """Return the bits per UTF-8 byte of the cards' stories, the end token counted in, its bytes not."""
    rows = [(data.prompts.render(card), story) for card in cards for story in card.stories]
    packed = encode_rows(data.tokenizer, rows, 512).to(data.text.device)
    packed = packed[:, :, : int((packed[:, 0] != PAD).sum(1).max())]
    model.eval()
    nats = sum(loss_of(model, batch, "sum").item() for batch in packed.split(64))
    return nats / math.log(2) / sum(len(story.encode()) for _, story in rows)


def copy_state(model: MistralForCausalLM) -> State:
    """Return a copy of the model's weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def story_phase(
    model: MistralForCausalLM,
    start: State,
    data: Data,
    recipe: Recipe,
    *,
    teachers: Sequence[MistralForCausalLM] = (),
    compiled: bool = False,
) -> State:
    """Run the story phase from the corpus phase's state and return the state at its end."""
    steps = max(1, int(recipe.story_passes * (len(data.story_pass(recipe, 0)) // recipe.story_rows)))
    model.load_state_dict(start)
    batches, rate = story_batches(data, recipe), story_rate(recipe, steps)
    train(model, batches, steps, rate, recipe, teachers=teachers, dropout=True, compiled=compiled)
    return copy_state(model)


def teacher_of(recipe: Recipe, number: int, *, larger: bool) -> Recipe:
    """Return the recipe of a numbered teacher, of the model's own size or larger."""
    teacher = dataclasses.replace(recipe, seed=recipe.seed + number, story_passes=recipe.teacher_passes)
    if not larger:
        return teacher
    return dataclasses.replace(
        teacher,
        width=recipe.teacher_width,
        heads=recipe.teacher_heads,
        kv_heads=recipe.teacher_kv_heads,
        mlp=recipe.teacher_mlp,
        dropout=recipe.teacher_dropout,
        corpus_steps=recipe.teacher_corpus_steps,
    )


class Stages:
    """The weights that each finished stage left; in a folder, a run that was cut off goes on from them."""

    def __init__(self, folder: Path | None, data: Data, say: Callable[..., None]) -> None:
        self.folder, self.say = folder, say
        self._done: dict[str, State] = {}
        prompts = [data.prompts.render(card) for card in (None, *data.cards)]
        read = [data.tokenizer.backend_tokenizer.to_str(), data.cards, prompts]
        self._read = hashlib.sha256(data.text.cpu().numpy().tobytes() + repr(read).encode()).hexdigest()

    def get(self, name: str, inputs: Sequence[object], make: Callable[[], State]) -> State:
        """Return the weights of a stage, made now unless those of the same inputs and data are there."""
        key = f"{name}-{hashlib.sha256(repr((inputs, self._read)).encode()).hexdigest()[:12]}"
        path = self.folder / f"{key}.pt" if self.folder else None
        if key not in self._done:
            if path and path.exists():
                self.say(f"{path.name} is there")
                self._done[key] = torch.load(path, weights_only=True)
            else:
                self._done[key] = make()
                if path:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    torch.save(self._done[key], path.with_suffix(".part"))
                    path.with_suffix(".part").replace(path)
        return self._done[key]


class Line:
    """The stages from nothing to the model: corpus phases, teachers, and the model's own story phase."""

    def __init__(self, data: Data, device: str, stages: Path | None = None, say: Callable[..., None] = print) -> None:
        self.data, self.device, self.say = data, device, say
        self.stages = Stages(stages, data, say)
        self._models: dict[tuple[object, ...], MistralForCausalLM] = {}

    def whole(self, recipe: Recipe) -> MistralForCausalLM:
        """Return the model after all stages."""
        teachers = [teacher_of(recipe, n, larger=larger) for larger in (False, True) for n in range(recipe.teachers)]
        return self._loaded(recipe, self.stories(recipe, teachers))

    def corpus(self, sizes: Recipe) -> State:
        """Return the weights after the corpus phase."""

        def make() -> State:
            model = self._model(sizes)
            model.load_state_dict(build_model(sizes).state_dict())
            self.say(f"corpus phase of {sum(p.numel() for p in model.parameters()):,} parameters")
            batches, rate = corpus_batches(self.data, sizes), corpus_rate(sizes)
            train(model, batches, sizes.corpus_steps, rate, sizes, compiled=self._compiled, report=self._report)
            return copy_state(model)

        return self.stages.get(f"corpus-{sizes.width}", [getattr(sizes, name) for name in CORPUS_FIELDS], make)

    def stories(self, sizes: Recipe, teachers: Sequence[Recipe] = ()) -> State:
        """Return the weights after the story phase that follows the corpus phase of the same sizes."""

        def make() -> State:
            taught = [self._loaded(teacher, self.stories(teacher)) for teacher in teachers]
            start, model = self.corpus(sizes), self._model(sizes)
            self.say(f"story phase, width {sizes.width}, seed {sizes.seed}, {len(taught)} teachers")
            return story_phase(model, start, self.data, sizes, teachers=taught, compiled=self._compiled)

        return self.stages.get(f"stories-{sizes.width}", [sizes, teachers], make)

    @property
    def _compiled(self) -> bool:
        return self.device == "cuda"  # elsewhere it does not pay

    def _model(self, sizes: Recipe) -> MistralForCausalLM:
        """Return a model to train, one for each shape: it is compiled once."""
        heads = sizes.heads, sizes.kv_heads
        shape = (sizes.vocabulary, sizes.width, sizes.layers, heads, sizes.mlp, sizes.context, sizes.dropout)
        if shape not in self._models:
            self._models[shape] = build_model(sizes).to(self.device)
        return self._models[shape]

    def _loaded(self, sizes: Recipe, state: State) -> MistralForCausalLM:
        model = build_model(sizes).to(self.device).requires_grad_(False).eval()
        model.load_state_dict(state)
        return model

    def _report(self, step: int, loss: float) -> None:
        if step % 500 == 0:
            self.say(f"step {step} loss {loss:.3f}")


@torch.no_grad()
def sample(model: MistralForCausalLM, data: Data, cards: Sequence[Card], count: int, seed: int = 0) -> list[list[str]]:
    """Draw stories for each card, at temperature 0.8 and top-p 0.95."""
    torch.manual_seed(seed)
    model.eval()
    stories = []
    for card in cards:
        prompt = data.tokenizer([data.prompts.render(card)] * count, return_tensors="pt").to(model.device)
        ids = model.generate(**prompt, max_new_tokens=80, do_sample=True, temperature=0.8, top_p=0.95, top_k=0)
        stories.append(data.tokenizer.batch_decode(ids[:, prompt["input_ids"].size(1) :], skip_special_tokens=True))
    return stories


def save(model: MistralForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (8 bits), configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tied = "lm_head.weight"  # the embedding under another name
    write_weights({k: v.float().cpu().numpy() for k, v in model.state_dict().items() if k != tied}, folder)
    tokenizer.save_pretrained(folder)


def arguments() -> argparse.Namespace:
    """Read the command line; every field of the recipe is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of *.txt.xz")
    parser.add_argument("--stories", type=Path, required=True, help="folder of *.jsonl and plain-text-*.txt")
    parser.add_argument("--cards", type=Path, required=True, help="the game's cards (YAML), never trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--held-out", type=Path, default=HERE / "held-out.txt", help="names never trained on")
    parser.add_argument("--stages", type=Path, help="folder of finished stages: a cut-off run goes on there")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to use instead of training one")
    parser.add_argument("--samples", type=int, default=6, help="stories to print for each of the game's cards")
    for field in dataclasses.fields(Recipe):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser.parse_args()


def main() -> None:
    """Train, measure, sample and write."""
    args, began = arguments(), time.monotonic()
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")

    def say(*words: object) -> None:
        print(f"{time.monotonic() - began:7.1f} s", *words, flush=True)

    corpus, game = read_corpus(args.corpus), read_game_cards(args.cards)
    cards, held = hold_out(read_stories(args.stories), game, args.held_out.read_text(encoding="utf-8").splitlines())
    if args.tokenizer:
        tokenizer = wrap_tokenizer(Tokenizer.from_file(str(args.tokenizer)))
    else:
        tokenizer = train_tokenizer(tokenizer_texts(corpus, cards), recipe.vocabulary)
    data = Data(tokenizer, corpus, read_paragraphs(args.stories), cards).to(device)
    say(f"{len(cards)} cards, {len(held)} held out, {len(game)} of the game, {len(data.text):,} tokens of text")
    say(f"vocabulary {len(tokenizer):,}, {recipe}")
    model = Line(data, device, args.stages, say).whole(recipe)
    for style in (True, False):
        figure = bits_per_byte(model, data, [card for card in held if card.plain is style])
        say(f"{'plain' if style else 'rich'} cards held out: {figure:.4f} bits/byte")
    save(model, tokenizer, args.out)
    for card, stories in zip(game, sample(model, data, game, args.samples), strict=True) if args.samples else ():
        print(f"{card.name} · {card.effect}", *(f"    {story}" for story in stories), sep="\n")
    say("done")


if __name__ == "__main__":
    main()
