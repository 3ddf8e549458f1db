"""Owns where a generated text ends and what it says: eos, and the tags of the chat form; runs no model."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from gonbuild.model import TAGS
from gonbuild.records import END

TAIL = 16
"""Tokens at the end of a text in which a tag is looked for."""
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)} - {f"<0x{ord('>'):02X}>"}
"""How a sentencepiece tokenizer names single bytes."""


class Endings:
    """Knows how a tokenizer writes the end of a text: eos, or a tag of the chat form, as a token or spelled out."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Tags end with '>': only a token that holds one, or a piece of bytes that may be one, needs a look at the text.
        self._closers = {n for token, n in tokenizer.get_vocab().items() if ">" in token and token not in _BYTES}

    def found(self, ids: Sequence[int]) -> bool:
        """Tells whether the last token ended the text."""
        if ids[-1] == self._tokenizer.eos_token_id:
            return True
        if ids[-1] not in self._closers:
            return False
        tail = self._tokenizer.decode(ids[-TAIL:])
        return any(tag in tail for tag in TAGS)

    def text(self, ids: Sequence[int]) -> tuple[str, bool]:
        """Returns the story in NFC with single spaces, cut at the first tag, and whether that tag was the end's."""
        text = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        found = [(text.find(tag), tag) for tag in {*TAGS, *self._tokenizer.all_special_tokens} if tag in text]
        at, tag = min(found, default=(len(text), END))
        story = " ".join(unicodedata.normalize("NFC", text[:at]).split())
        return story, tag in (END, self._tokenizer.eos_token)
