"""Owns folders for other tools: an adapter for PEFT, vLLM and llama.cpp, a merged model, a base in the stock format.

What it writes is read without gonbuild: safetensors and JSON alone, no path of this machine, the same bytes each time.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gonbuild.base import BaseFiles
from gonbuild.errors import InputError, Problem

if TYPE_CHECKING:
    from gonbuild.prompts import Templates

FILES = ("adapter_config.json", "adapter_model.safetensors", "training.json")
SHARD = "4GB"
"""The most bytes of one weight file."""
TRIAL = "Tên thẻ: <X> & Y"


def write_adapter(folder: Path, files: BaseFiles, target: Path) -> None:
    """Copies an adapter's files into an existing folder; its config names the hub commit of the base, if it is one."""
    for name in FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    config = target / FILES[0]
    if files.revision and config.is_file():
        told = json.loads(config.read_bytes()) | {"revision": files.revision}
        config.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_model(base: Any, target: Path, templates: "Templates", chat: str) -> None:
    """Writes a loaded model as `save_pretrained` does, with its tokenizer and the chat template, into a folder.

    Raises:
        InputError: the chat template gives other tokens in transformers than here.
    """
    set_chat_template(base, templates, chat)
    config = base.model.config
    config.__dict__.pop("weight_storage", None)  # of the embedded base's own format, which is left behind
    config._name_or_path = ""
    base.tokenizer.name_or_path = ""
    for name in ("local_files_only", "trust_remote_code", "is_local"):
        base.tokenizer.init_kwargs.pop(name, None)
    base.model.save_pretrained(target, max_shard_size=SHARD)
    base.tokenizer.save_pretrained(target)


def set_chat_template(base: Any, templates: "Templates", chat: str) -> None:
    """Gives the tokenizer a project's chat template and sees that transformers makes the same tokens of it."""
    start = base.tokenizer.bos_token if base.encode("a")[:1] == [base.tokenizer.bos_token_id] else None
    base.tokenizer.chat_template = ("{{ bos_token }}" if start else "") + chat
    turns = [("system", templates.system), ("user", TRIAL)]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = base.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    wanted = (start or "") + templates.chat(*turns)
    if found != wanted:
        what = "gives another text in transformers, where a line break after a block is dropped"
        raise InputError(Problem("templates/chat.jinja", what, "Wanted blocks that end with -%}, as {%- ... -%}."))
