"""Owns `[tool.gonbuild]`: one frozen model per stage, so that no key can depend on a setting its stage does not see.

Field docstrings carry the unit; the README's table is made from them.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_serializer, model_validator

from gonbuild.errors import InputError, Problem, near, one_of
from gonbuild.sources import INVISIBLE, in_order, read_bytes, short


class Stage(BaseModel):
    """What every stage's settings share: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Bleu = Annotated[float, Field(ge=0, le=100)]
SETTINGS_BYTES = 256 << 10
"""Of pyproject.toml at most: reading TOML takes a time that grows faster than the text."""
PART, PATH = 255, 2048
"""Bytes of a file's name and characters of a path at most."""
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]


def _path(name: str) -> str:
    """Refuses what no file system takes: the error would come from whatever opens it, and blame the machine."""
    if "\0" in name or len(name) > PATH or any(len(part.encode()) > PART for part in name.split("/")):
        raise ValueError(f"wanted a path: no NUL, parts of at most {PART} bytes")
    return name


class ModelSettings(Stage):
    """The base model that is adapted."""

    base: str = "nano"
    """`nano` (embedded), a local folder, or a hub name such as `mistralai/Mistral-7B-v0.1`"""
    revision: str = ""
    """hub commit that pins the weights; empty for `nano` and folders"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """number format of the weights while computing"""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` loads the base in 4 bits (QLoRA, bitsandbytes)"""
    double_quantization: bool = True
    """`nf4` only: its scales are quantised too, 0.4 bits a weight less"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where the model runs"""

    @field_validator("base")
    @classmethod
    def _can_be_a_path(cls, name: str) -> str:
        return _path(name)

    @model_validator(mode="after")
    def _computed_in_16_bits(self) -> "ModelSettings":
        if self.quantization == "nf4" and self.dtype != "bfloat16":
            raise ValueError(f'wanted dtype = "bfloat16" with quantization = "nf4", found "{self.dtype}"')
        return self


class DatasetSettings(Stage):
    """Which stories become training rows, beside the decks' own examples."""

    examples: Annotated[int, Field(ge=0)] = 0
    """stories of `cards/examples` that join the decks' examples, rows, drawn by digest"""
    seed: Seed = 0
    """which of them are drawn, and how stories are varied"""
    variants: Annotated[int, Field(ge=0, le=100)] = 0
    """varied copies of each of the decks' own stories: other numbers, people, places, words, order, or a detail more"""


class AdapterSettings(Stage):
    """LoRA and its training."""

    rank: Positive = 16
    """LoRA r"""
    alpha: Positive = 32
    """LoRA alpha; the update is scaled by alpha / r"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """LoRA dropout, share"""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """modules that are adapted"""
    last_layers: Annotated[int, Field(ge=0)] = 3
    """how many of the last layers are adapted, 0 for all; fewer train faster"""
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.5
    """passes over the rows"""
    batch_size: Positive = 12
    """rows read at once, over all devices"""
    accumulation: Positive = 1
    """batches per update"""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.5e-3
    """peak, per update"""
    schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "cosine"
    """course of the learning rate"""
    warmup: Fraction = 0.03
    """share of the updates"""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """gradient clip"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's"""
    optimizer: Literal["adamw_torch", "paged_adamw_32bit"] = "adamw_torch"
    """transformers' name"""
    group_by_length: bool = True
    """rows of an update are of similar length"""
    max_tokens: Positive = 512
    """longest row, tokens; a longer one is an error that names it"""
    gradient_checkpointing: bool = False
    """less memory (5 instead of 18 GiB for Mistral-7B), a fifth more time"""
    seed: Seed = 0
    """order of the rows, dropout, LoRA's start"""
    method: Literal["sft", "dpo", "kto"] = "sft"
    """`sft` learns from stories alone; `dpo` goes on with pairs of marked stories, `kto` with each by itself"""
    preference_epochs: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """`dpo` and `kto`: passes over the pairs or the marked stories"""
    preference_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """`dpo` and `kto`: peak, per update"""
    preference_beta: Annotated[float, Field(gt=0, le=100)] = 0.5
    """`dpo` and `kto`: how closely the adapter stays with what `sft` made, per nat; lower goes further from it"""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Any) -> dict[str, Any]:
        """Leaves out what came later and is off, so that adapters made before it stay what their key says."""
        values: dict[str, Any] = handler(self)
        later = () if self.method != "sft" else ("method", *(name for name in values if name.startswith("preference_")))
        return {name: value for name, value in values.items() if name not in later}


class SamplingSettings(Stage):
    """How candidates are drawn."""

    candidates: Annotated[int, Field(ge=1, le=1024)] = 32
    """per card and round"""
    temperature: Annotated[float, Field(gt=0, le=5)] = 0.5
    """divides the logits"""
    top_k: Annotated[int, Field(ge=0)] = 50
    """tokens kept per step, 0 for all"""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """probability mass kept per step"""
    min_p: Fraction = 0.0
    """tokens kept per step are at least this likely, as a share of the likeliest one; 0 for all"""
    repetition_penalty: Annotated[float, Field(ge=1, le=5)] = 1.0
    """1 is none"""
    max_new_tokens: Annotated[int, Field(ge=8, le=1024)] = 192
    """a candidate that reaches it is cut and dropped"""
    seed: Seed = 0
    """another seed, other candidates"""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Any) -> dict[str, Any]:
        """Leaves out what came later and is off, so that stories made before it stay what their key says."""
        values: dict[str, Any] = handler(self)
        return values if self.min_p else {name: value for name, value in values.items() if name != "min_p"}


class FilterSettings(Stage):
    """What a candidate must hold to ship."""

    min_words: Positive = 12
    """words (space-separated syllables) at least"""
    max_words: Positive = 40
    """words at most"""
    max_sentences: Positive = 2
    """sentences at most"""
    max_foreign: Fraction = 0.1
    """share of words that are no valid Vietnamese syllable, names and numbers aside"""
    max_repeated_pairs: Annotated[int, Field(ge=0)] = 0
    """word pairs said again within the story, the effect's own words aside"""
    effect: bool = True
    """each number, sign and region of the effect must be told, and no foreign one"""
    banned_words: tuple[Annotated[str, Field(pattern=r"\w")], ...] = ()
    """never shipped, whole words, any case"""
    max_novelty_bleu: Bleu = 50.0
    """BLEU to the nearest training story, and to the nearest banned one, at most; the words of the effects left out"""
    max_diversity_bleu: Bleu = 30.0
    """BLEU to the nearest story already in the pack at most, likewise"""
    min_reference_bleu: Bleu | None = None
    """BLEU to the card's own examples at least; off unless set"""

    @model_validator(mode="after")
    def _in_order(self) -> "FilterSettings":
        if self.min_words > self.max_words:
            raise ValueError(f"wanted min_words at most max_words, found {self.min_words} and {self.max_words}")
        return self


class SelectionSettings(Stage):
    """How many stories ship and when to stop looking."""

    stories: Annotated[int, Field(ge=1, le=50)] = 2
    """per card, unless the card says its own"""
    rounds: Annotated[int, Field(ge=1, le=50)] = 4
    """rounds of candidates before the card is reported"""
    card_weight: Annotated[float, Field(ge=0, le=10)] = 0.0
    """what the card's share in a story's log-probability counts in the ranking, where the log-probability counts 1"""


class PackSettings(Stage):
    """What the packs say of themselves."""

    title: str = "GON"
    """`deck` of stories.json and the heading of stories.md"""

    @field_validator("title")
    @classmethod
    def _is_visible(cls, title: str) -> str:
        if bad := INVISIBLE.search(title):
            raise ValueError(f"wanted a text without invisible characters, found U+{ord(bad[0]):04X}")
        return title


class ReleaseSettings(Stage):
    """What `check --release` holds the packs against: part of no key."""

    approved: Annotated[int, Field(ge=0)] | None = None
    """stories per card that people must have approved, pinned or edited; unless set, all that ship"""
    max_characters: Positive = 200
    """characters of a story at most, as a reader counts them (code points of NFC)"""
    opening_words: Positive = 4
    """words that make a story's opening"""
    max_openings: Annotated[int, Field(ge=0)] = 3
    """stories of the pack with one and the same opening at most; 0 for any number"""
    font: str = ""
    """the game's font, a TTF or OTF in the project; every character needs a glyph in it; empty for none"""

    @field_validator("font")
    @classmethod
    def _can_be_a_path(cls, name: str) -> str:
        return _path(name)


class MachineSettings(Stage):
    """What changes time but no result: part of no key."""

    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads; 0 takes one per core that this process may use, 4 at most"""
    slots: Annotated[int, Field(ge=0, le=4096)] = 0
    """candidates drawn at a time; 0 for 512 on a GPU and 64 on a CPU, halved until they fit into the free memory"""
    checkpoint_updates: Annotated[int, Field(ge=0)] = 200
    """updates between checkpoints of a training, from which an interrupted one goes on; 0 for none"""
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """where the loss curve is sent while training, by transformers' name; install the package yourself"""
    lock_timeout_s: Annotated[float, Field(ge=0)] = 3600.0
    """seconds to wait for another build of this checkout"""


class CacheSettings(Stage):
    """Where machines share adapters: part of no key."""

    remote: str = ""
    """shared store of adapters, fsspec URL (`s3://bucket/prefix`, `file:///folder`); empty for none"""
    push: bool = True
    """send adapters that were trained here there; never in a pull request"""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """seconds to wait for an answer of the shared store; then the build goes on without it"""

    @field_validator("remote")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if wrong := _wrong_url(url):
            raise ValueError(wrong)
        return url


def _wrong_url(url: str) -> str:
    """Says what is wanted of a shared store's URL that is none, without repeating what may be a secret."""
    scheme, _, rest = url.partition("://")
    if "/" not in scheme and re.match(r"[^/:]*:[^/@]*@", rest):
        return "wanted no password in a URL; the driver takes it from its own environment"
    if url.startswith("file:") and not url.startswith("file:///"):
        return "wanted an absolute path, file:///folder"
    if url and not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", url):
        return "wanted a URL such as s3://bucket/prefix or file:///folder"
    return ""


class Settings(Stage):
    """All of `[tool.gonbuild]`."""

    profile: Literal["nano", "mistral-7b"] = "nano"
    """defaults of the stages below: `nano` runs anywhere, `mistral-7b` wants a GPU"""
    model: ModelSettings = ModelSettings()
    dataset: DatasetSettings = DatasetSettings()
    adapter: AdapterSettings = AdapterSettings()
    sampling: SamplingSettings = SamplingSettings()
    filters: FilterSettings = FilterSettings()
    selection: SelectionSettings = SelectionSettings()
    packs: PackSettings = PackSettings()
    release: ReleaseSettings = ReleaseSettings()
    machine: MachineSettings = MachineSettings()
    cache: CacheSettings = CacheSettings()


PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "nano": {},
    "mistral-7b": {
        "model": {
            "base": "mistralai/Mistral-7B-v0.1",
            "revision": "27d67f1b5f57dc0953326b2601d68371d40ea8da",
            "dtype": "bfloat16",
            "quantization": "nf4",
            "device": "cuda",
        },
        "dataset": {"examples": 30000, "variants": 4},
        "adapter": {
            "epochs": 3.0,
            "last_layers": 0,
            "rank": 64,
            "alpha": 16,
            "dropout": 0.1,
            "batch_size": 16,
            "learning_rate": 2e-4,
            "schedule": "constant_with_warmup",
            "max_grad_norm": 0.3,
            "optimizer": "paged_adamw_32bit",
            "max_tokens": 2048,
            "gradient_checkpointing": True,
            "preference_learning_rate": 5e-5,
        },
        "sampling": {"candidates": 24, "temperature": 0.7},
        "selection": {"card_weight": 1.0},
    },
}


def load_settings(root: Path, profile: str | None = None) -> Settings:
    """Reads `[tool.gonbuild]` of `root/pyproject.toml` over the profile's defaults.

    The profile is the argument, else `GONBUILD_PROFILE`, else the file's, else `nano`. `GONBUILD_REMOTE` goes before
    the file's `cache.remote`.

    Raises:
        InputError: no file, bad TOML, unknown keys (with the near name) or values out of range; all of them at once.
    """
    path = root / "pyproject.toml"
    try:
        text = _text(path, root)
        table = _table(_table(tomllib.loads(text), "tool"), "gonbuild")
    except FileNotFoundError:
        raise InputError(Problem(str(path), "no such file", "Run gonbuild in a project, or name it: --root.")) from None
    except (ValueError, RecursionError) as e:  # a number of some thousand digits and deep nesting are no TOML error
        raise InputError(Problem("pyproject.toml", f"is no valid TOML: {e}")) from None
    for source, name in (("--profile", profile), ("GONBUILD_PROFILE", os.environ.get("GONBUILD_PROFILE"))):
        if name:
            if name not in PROFILES:
                raise InputError(_unknown_profile(source, name))
            table = {**table, "profile": name}
            break
    return _with_remote(parse_settings(table, text), os.environ.get("GONBUILD_REMOTE", ""))


def _text(path: Path, root: Path) -> str:
    """Reads the file, which is no larger than any that a person wrote."""
    if not path.exists():
        raise FileNotFoundError
    data, problem = read_bytes(path, root, SETTINGS_BYTES)
    if len(data) > SETTINGS_BYTES:
        problem = Problem("pyproject.toml", f"is larger than {SETTINGS_BYTES >> 10} KiB", "Shorten it.")
    if problem:
        raise InputError(problem)
    return data.decode("utf-8").replace("\r\n", "\n")


def _with_remote(settings: Settings, url: str) -> Settings:
    if wrong := _wrong_url(url):
        raise InputError(Problem("GONBUILD_REMOTE", "no URL of a shared store", _sentence(wrong)))
    cache = settings.cache.model_copy(update={"remote": url or settings.cache.remote})
    return settings.model_copy(update={"cache": cache})


def _table(value: dict[str, Any], name: str) -> dict[str, Any]:
    table = value.get(name, {})
    if not isinstance(table, dict):
        raise InputError(Problem("pyproject.toml", f"'{name}' is no table", "Wanted [tool.gonbuild] with settings."))
    return table


def _unknown_profile(where: str, name: Any) -> Problem:
    wanted = f"Wanted {one_of(PROFILES)}. {near(str(name), list(PROFILES))}".strip()
    return Problem(where, f"unknown profile '{short(str(name))}'", wanted)


def parse_settings(table: dict[str, Any], text: str = "") -> Settings:
    """Lays a table over its profile's defaults; `text` is the TOML it came from, for line numbers."""
    profile = table.get("profile", "nano")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise InputError(_unknown_profile(_where(_lines(text), ("profile",)), profile))
    merged: dict[str, Any] = {**table}
    for stage, values in PROFILES[profile].items():
        own = table.get(stage, {})
        merged[stage] = {**values, **own} if isinstance(own, dict) else own
    try:
        return Settings.model_validate_json(_json(merged))
    except ValidationError as e:
        lines = _lines(text)
        problems = [_problem(error, lines) for error in e.errors()]
        raise InputError(in_order(problems, "pyproject.toml")) from None


def _json(table: dict[str, Any]) -> str:
    # Strict mode takes JSON's types (an array for a tuple) from JSON alone, and TOML has the same ones.
    import json

    return json.dumps(table, default=str)


def _problem(error: Any, lines: Mapping[str, int]) -> Problem:
    keys = tuple(str(k) for k in error["loc"])
    name = short(".".join(keys))
    where = _where(lines, keys)
    if not keys:
        return Problem(where, "[tool.gonbuild] cannot be read", _sentence(error["msg"]))
    if error["type"] == "extra_forbidden":
        model: Any = Settings
        for key in keys[:-1]:
            model = model.model_fields[key].annotation
        known = list(model.model_fields)
        return Problem(where, f"unknown setting '{name}'", near(keys[-1], known) or f"Known: {', '.join(known)}.")
    if error["type"] == "value_error":
        return Problem(where, f"setting '{name}'", _sentence(str(error["ctx"]["error"])))
    message = error["msg"].replace("Input should be", "wanted")
    return Problem(where, f"setting '{name}' is {short(repr(error['input']))}", _sentence(message))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _where(lines: Mapping[str, int], keys: tuple[str, ...]) -> str:
    """Finds the line of a key under `[tool.gonbuild]`; a key that is not written there has no line."""
    number = lines.get(".".join(("tool.gonbuild", *keys)))
    return f"pyproject.toml:{number}" if number else "pyproject.toml"


def _lines(text: str) -> dict[str, int]:
    """Returns the line of each table and key of a TOML text by its full name."""
    table, lines = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = header[1].strip()
            lines.setdefault(table, number)
        elif "=" in line:
            key = line.partition("=")[0].strip()
            bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'" else key
            lines.setdefault(f"{table}.{bare}", number)
    return lines


def settings_table() -> str:
    """Returns the README's table of settings: name, default of each profile, meaning."""
    rows = ["| setting | nano | mistral-7b | meaning |", "|---|---|---|---|"]
    both = {name: parse_settings({"profile": name}) for name in PROFILES}
    for stage, field in Settings.model_fields.items():
        if stage == "profile":
            rows.append(f"| `profile` | `nano` | | {field.description} |")
            continue
        for name, entry in type(getattr(both["nano"], stage)).model_fields.items():
            nano, mistral = (_toml(getattr(getattr(s, stage), name)) for s in both.values())
            rows.append(f"| `{stage}.{name}` | {nano} | {mistral if mistral != nano else ''} | {entry.description} |")
    return "\n".join(rows) + "\n"


def _toml(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else "`''`"
