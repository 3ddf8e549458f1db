"""Owns loading a base model and saying what this machine lacks for one; trains nothing and samples nothing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gonbuild.machine import Machine, this_machine, usable_cores  # before the libraries: it sets what they read

# isort: split
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.utils import logging

from gonbuild.base import FAMILIES, BaseFiles, is_whole
from gonbuild.disk import FAILING, disk_trouble
from gonbuild.errors import InputError, MachineError, Problem, one_of
from gonbuild.memory import KNOWN, Need, Shape, read_shape
from gonbuild.quantized import is_quantized, read_weights
from gonbuild.ranks import device_index
from gonbuild.records import END, Row
from gonbuild.settings import ModelSettings

TAGS = ("<|system|>", "<|user|>", "<|assistant|>", END)
WANTED_FILES = ["config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "model*.safetensors*"]


@dataclass(frozen=True)
class Reader:
    """What turns texts into a base's tokens; its weights need not be loaded for that."""

    tokenizer: Any
    files: BaseFiles
    context: int
    """Positions the model knows, in tokens."""

    def encode(self, prompt: str) -> list[int]:
        """Returns a prompt's token ids, with whatever the tokenizer puts before a text."""
        return list(self.tokenizer(prompt)["input_ids"])

    def encode_row(self, row: Row) -> tuple[list[int], int]:
        """Returns the token ids of prompt and completion, and how many of them the prompt is.

        The eos token follows where the completion does not end with it. The completion starts where the prompt's own
        tokens and those of the whole part, as trl has it.
        """
        eos = self.tokenizer.eos_token
        ids = self.encode(row.prompt + row.completion + ("" if row.completion.endswith(eos) else eos))
        prompt = self.encode(row.prompt)
        start = next((n for n, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        return ids, start


@dataclass(frozen=True)
class Base(Reader):
    """A causal language model that is loaded, with its tokenizer; `model` may carry an adapter."""

    model: Any
    device: torch.device
    dtype: torch.dtype

    @property
    def quantized(self) -> bool:
        return bool(getattr(self.model, "is_loaded_in_4bit", False))


def missing_for(
    settings: ModelSettings, files: BaseFiles, machine: Machine | None = None, need: Need | None = None
) -> list[str]:
    """Returns what this machine lacks for the model, a clause each; nothing is loaded, and an empty list means it runs.

    `need` is what the step to come takes on the device; None checks no memory. Only for a base of the hub that is not
    in the local cache is the network asked.
    """
    machine = machine or this_machine()
    missing = []
    if settings.device == "cuda" and machine.gpu_gib is None:
        missing.append("no CUDA device" + (f" ({need.step} needs a GPU with {need.gib:.1f} GiB)" if need else ""))
    elif need is not None:
        gpu = settings.device == "cuda"
        free = machine.gpu_gib if gpu and machine.gpu_gib is not None else machine.memory_gib
        if free < need.gib:
            missing.append(_too_little("the GPU has" if gpu else "memory has", free, need))
    if settings.device == "cuda" and not machine.kernels:
        missing.append("Triton or a C compiler (cc) is not installed, which draw on a GPU")
    if settings.quantization == "nf4" and not machine.bitsandbytes:
        missing.append("bitsandbytes is not installed")
    if folder_of(files) is None and not machine.hub_has(files.name, files.revision):
        missing.append(f"{files.name} is neither in the local hub cache nor reachable")
    return missing


def _too_little(where: str, free: float, need: Need) -> str:
    cure = f": {need.cure}" if need.cure else ""
    return f"{where} {free:.1f} GiB free, and {need}{cure}"


def require(
    settings: ModelSettings, files: BaseFiles, machine: Machine | None = None, need: Need | None = None
) -> None:
    """Raises what `missing_for` found, if it found anything.

    Raises:
        MachineError: this machine lacks something, said in one line.
    """
    if missing := missing_for(settings, files, machine, need):
        raise _lacking(files, "; ".join(missing))


def folder_of(files: BaseFiles) -> Path | None:
    """Returns where a base lies on this machine, None for one of the hub that is not in the local cache in full."""
    return files.folder or _cached(files)


def shape_of(files: BaseFiles) -> Shape | None:
    """Returns the sizes of a base, as far as this machine knows them."""
    folder = folder_of(files)
    if folder is None:
        return KNOWN.get(files.name)
    return read_shape(json.loads((folder / "config.json").read_bytes()))  # whether it can be read was seen before


def load_reader(files: BaseFiles, folder: Path) -> Reader:
    """Loads the tokenizer of a base from its folder, and sees whether it and config.json are a causal language model's.

    Raises:
        InputError: they are not, or the tokenizer does not fit: no eos token, ids that the model has no embedding for,
            or chat tags that it cannot tell apart.
    """
    _be_quiet()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as e:  # tokenizers raise bare Exceptions, and other formats whatever their reader stumbles over
        raise _unloadable(files, e) from e
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if encoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _unloadable(files, f"'{config.model_type}' is no causal language model")
    if config.model_type not in FAMILIES:
        raise _unloadable(files, f"candidates can be drawn from {one_of(FAMILIES)}, not from '{config.model_type}'")
    _fit_tokenizer(tokenizer, config, files)
    window = getattr(config, "sliding_window", None) or config.max_position_embeddings
    return Reader(tokenizer, files, int(min(window, config.max_position_embeddings)))


def load_base(files: BaseFiles, settings: ModelSettings, threads: int, machine: Machine | None = None) -> Base:
    """Loads model and tokenizer, from safetensors alone, and sets the CPU threads (0: one per usable core, 4 at most).

    Raises:
        MachineError: this machine lacks something, said in one line.
        InputError: as `load_reader`, or the weights do not fit config.json.
    """
    torch.set_num_threads(threads or min(4, usable_cores()))
    require(settings, files, machine)
    folder = folder_of(files) or _download(files)
    reader = load_reader(files, folder)
    try:
        model, found = _read_model(folder, settings)
    except torch.OutOfMemoryError as e:
        raise _lacking(files, f"memory ran out while loading: {e}") from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise _unloadable(files, e) from e
    if wrong := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
        # they would be random numbers
        what = f"{len(wrong)} of the base's tensors are missing or of another shape, {wrong[0]} first"
        raise InputError(Problem(files.name, what, "Wanted weights that fit config.json."))
    model.eval().requires_grad_(False)
    device = torch.device("cuda", device_index()) if settings.device == "cuda" else torch.device("cpu")
    return Base(**vars(reader), model=model, device=device, dtype=getattr(torch, settings.dtype))


def _read_model(folder: Path, settings: ModelSettings) -> tuple[Any, Any]:
    """Returns the model of a folder, and what `from_pretrained` says of its tensors."""
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, **model_options(settings)}
    if not is_quantized(folder):
        return AutoModelForCausalLM.from_pretrained(folder, **options)  # type: ignore[no-any-return]
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    weights = {name: torch.from_numpy(weight) for name, weight in read_weights(folder).items()}
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return kind.from_pretrained(None, config=config, state_dict=weights, **options)  # type: ignore[no-any-return]


def model_options(settings: ModelSettings) -> dict[str, Any]:
    """Returns what `from_pretrained` is told of a base that lies in a folder."""
    options: dict[str, Any] = {
        "dtype": getattr(torch, settings.dtype),
        "attn_implementation": "sdpa",
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    if settings.device == "cuda":
        options["device_map"] = {"": device_index()}
    if settings.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=settings.double_quantization,
            bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        )
    return options


def _be_quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _lacking(files: BaseFiles, what: str) -> MachineError:
    wanted = "" if files.name == "nano" else 'profile = "nano" works on any machine.'
    return MachineError(Problem("", f"this machine can't run {files.name}: {what}", wanted))


def _unloadable(files: BaseFiles, why: object) -> InputError | MachineError:
    if isinstance(why, Exception) and (trouble := disk_trouble(why, FAILING)):
        return MachineError(Problem(files.name, f"the base cannot be read: {trouble}", "Is the disk sound?"))
    said = str(why).splitlines() or [type(why).__name__]
    wanted = "Wanted a folder that `save_pretrained` wrote: config.json, tokenizer and *.safetensors."
    return InputError(Problem(files.name, f"the base cannot be loaded: {said[0].rstrip('.')}", wanted))


def _fit_tokenizer(tokenizer: Any, config: Any, files: BaseFiles) -> None:
    """Gives the tokenizer a pad token, and refuses one that cannot carry the chat turns or is another model's."""
    problems = []
    if tokenizer.eos_token is None:
        problems.append(Problem(files.name, "its tokenizer has no eos token", "Wanted one in tokenizer_config.json."))
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    highest, token = max(((n, token) for token, n in tokenizer.get_vocab().items()), default=(-1, ""))
    if highest >= config.vocab_size:
        what = f"its tokenizer gives ids up to {highest} ('{token}'), and the model has {config.vocab_size} embeddings"
        problems.append(Problem(files.name, what, "Wanted the tokenizer that the model was trained with."))
    tokens = [tuple(tokenizer(tag, add_special_tokens=False)["input_ids"]) for tag in TAGS]
    if len(set(tokens)) < len(TAGS) or any(not ids or tokenizer.unk_token_id in ids for ids in tokens):
        what = f"its tokenizer cannot tell {', '.join(TAGS)} apart"
        problems.append(Problem(files.name, what, "Wanted a tokenizer with these tags, or one that falls to bytes."))
    if problems:
        raise InputError(problems)


def _cached(files: BaseFiles) -> Path | None:
    """Returns the folder of a hub base in the local cache, None where it is not there in full."""
    try:
        folder = Path(snapshot_download(files.name, revision=files.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if is_whole(folder) else None


def _download(files: BaseFiles) -> Path:
    try:
        folder = Path(snapshot_download(files.name, revision=files.revision, allow_patterns=WANTED_FILES))
    except (OSError, HfHubHTTPError) as e:
        raise _lacking(files, f"the download failed: {str(e).splitlines()[0]}") from None
    if not is_whole(folder):
        raise _lacking(files, "the hub holds no causal language model in safetensors under this commit")
    return folder
