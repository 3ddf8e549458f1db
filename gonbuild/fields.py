"""Owns how a value is held against a table of fields, JSON Schemas all; knows no file format but nodes."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gonbuild.errors import Problem, near, one_of
from gonbuild.sources import DEVICE_NAMES, clean, fault, short

if TYPE_CHECKING:
    from gonbuild.nodes import Node

Schema = Mapping[str, Any]

STORY, EFFECT, TITLE = 2_000, 500, 100
"""Characters at most of a story, of an effect or a reason, and of a card's or a deck's name."""


def text_field(description: str, **more: Any) -> Schema:
    """Returns the schema of a text that is not empty."""
    return {"description": description, "type": "string", "minLength": 1, **more}


CARD_ID = text_field("Names the card for good: a-z, 0-9 and hyphens, 64 at most.", pattern="^[a-z0-9][a-z0-9-]{0,63}$")


@dataclass
class Reader:
    """Holds the nodes of one file against tables of fields and notes what is wrong."""

    where: str
    problems: list[Problem]

    def fields(self, node: "Node", schema: Schema, label: str) -> dict[str, Any]:
        """Returns the values of those fields of a mapping that are right; `label` says in messages whose they are."""
        table: Mapping[str, Schema] = schema["properties"]
        if not isinstance(node.value, dict):
            if node.value is not None:
                self._say(node, f"{label} is no mapping", f"Wanted {', '.join(f'{key}: ...' for key in table)}.")
            return {}
        values = {}
        for key, (place, value) in node.value.items():
            if key not in table:
                self._say(place, f"{label}: unknown key '{short(key)}'", known(key, table))
            elif value.value is not None and (right := self._value(value, table[key], f"{label}: {key}")) is not None:
                values[key] = right
        if node.whole and (missing := lacking(node.value, schema)):
            self._say(node, f"{label} has no {missing}")
        return values

    def _say(self, node: "Node", what: str, wanted: str = "") -> None:
        self.problems.append(Problem(f"{self.where}:{node.line}:{node.column}", what, wanted))

    def _value(self, node: "Node", schema: Schema, label: str) -> Any:
        """Returns a field's value, None where it is wrong: a text, a whole number, a mapping, or a list of nodes."""
        if schema["type"] == "array":
            return self._list(node, schema, label)
        if schema["type"] == "object":
            return self._mapping(node, schema, label)
        if not isinstance(node.value, str):
            self._say(
                node,
                f"{label} is a {'list' if isinstance(node.value, list) else 'mapping'}",
                "Wanted one text; put one that holds ': ' in double quotes.",
            )
        elif schema["type"] == "integer":
            return self._number(node, schema, label)
        elif wrong := wrong_text(node.value, schema, label):
            self._say(node, *wrong)
        else:
            return node.value
        return None

    def _mapping(self, node: "Node", schema: Schema, label: str) -> dict[str, Any] | None:
        values = self.fields(node, schema, label)
        if isinstance(node.value, dict) and len(node.value) < schema.get("minProperties", 0) and node.whole:
            self._say(node, f"{label} is empty", f"Wanted one or more of {', '.join(schema['properties'])}.")
        return values

    def _number(self, node: "Node", schema: Schema, label: str) -> int | None:
        low, high = schema["minimum"], schema["maximum"]
        text = str(node.value)
        if re.fullmatch("[0-9]{1,3}", text) and low <= int(text) <= high:
            return int(text)
        self._say(node, f"{label} is '{short(text)}'", f"Wanted a whole number from {low} to {high}.")
        return None

    def _list(self, node: "Node", schema: Schema, label: str) -> "list[Node] | None":
        """Returns the items of a list; texts among them are checked, mappings are the caller's."""
        if not isinstance(node.value, list):
            what = "is empty" if node.value == "" else "is no list"
            self._say(node, f"{label} {what}", "Wanted '- ...' lines below it.")
            return None
        if not node.value and node.whole:
            self._say(node, f"{label} is empty", "Wanted one item or more.")
        if schema["items"]["type"] == "string":
            for n, item in enumerate(node.value, 1):
                if item.value is not None:
                    self._value(item, schema["items"], f"{label} {n}")
        return node.value


def known(key: str, table: Mapping[str, Schema]) -> str:
    """Offers the near name of an unknown key, else all known ones."""
    return near(key, list(table)) or f"Known: {', '.join(table)}."


def lacking(row: Collection[str], schema: Schema) -> str:
    """Names the required keys that a mapping lacks, those aside that an unknown key looks like."""
    table = [*schema["properties"]]
    typos = "".join(near(key, table) for key in row if key not in table)
    return " and no ".join(f"'{key}'" for key in schema["required"] if key not in row and f"'{key}'" not in typos)


def wrong_text(text: str, schema: Schema, label: str) -> tuple[str, str] | None:
    """Says what is wrong with a text and what was wanted; None where it is right. `label` ends in the key."""
    owner, _, key = label.rpartition(": ")
    if not text:
        return f"{label} is empty", ""
    if "enum" in schema and text not in schema["enum"]:
        same = {word.casefold(): word for word in schema["enum"]}
        close = near(same.get(text.casefold(), text), schema["enum"])
        return f"{owner}: unknown {key} '{short(text)}'".removeprefix(
            ": "
        ), f"Wanted {one_of(schema['enum'])}. {close}".strip()
    if len(text) > schema.get("maxLength", len(text)):
        return f"{label} has {len(text)} characters", f"Wanted at most {schema['maxLength']}."
    if "pattern" in schema and text in DEVICE_NAMES:
        return f"{label} is '{short(text)}'", "Windows keeps that name for itself: choose another."
    if "pattern" in schema and not re.fullmatch(schema["pattern"], text):
        return f"{label} is '{short(text)}'", "Wanted a-z, 0-9 and hyphens, 64 at most, no hyphen first."
    return None


def json_value(value: Any, schema: Schema, label: str) -> tuple[Any, list[Problem]]:
    """Returns a cleaned text or list of texts out of JSON, with what is wrong with it."""
    if schema["type"] == "array":
        if not isinstance(value, list) or not value:
            return None, [Problem("", f"{label} is no list of texts", "Wanted one or more.")]
        told = [json_value(item, schema["items"], f"{label} {n}") for n, item in enumerate(value, 1)]
        return [item for item, _ in told], [p for _, problems in told for p in problems]
    if not isinstance(value, str):
        return None, [Problem("", f"{label} is no text")]
    text = clean(value)
    if wrong := fault(text):
        return None, [Problem("", f"{label} {wrong}")]
    found = wrong_text(text, schema, label)
    return text, [Problem("", *found)] if found else []
