"""Owns the escaping of texts for Markdown and HTML; renders nothing."""

import re

_MARKUP = re.compile(r"[\\`*_{}\[\]|~]|:(?=//)|^(?:#|[-+=](?=[-+=\s]|$))|(?<=\s)#(?=#*$)")
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def md(text: object) -> str:
    """Escapes a text so that Markdown and HTML show it as it is, on one line."""
    line = " ".join(str(text).split())
    return _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", line)).translate(_ENTITIES)
