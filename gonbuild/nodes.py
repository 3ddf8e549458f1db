"""Owns the strict reading of YAML: a file to nodes with their places, every mistake named; knows no cards."""

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import yaml

from gonbuild.errors import Problem
from gonbuild.sources import INVISIBLE, MAX_PROBLEMS, clean, decode, fault, short

MAX_DEPTH = 8

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONFLICT = re.compile(r"^(?:<{7} .*|\|{7} .*|={7}|>{7} .*)$", re.M)
_MERGE = "Keep the lines that you want of both sides, and delete the marker."


@dataclass(slots=True)
class Node:
    """A YAML value: text as written, a list, or a mapping from key to (key's node, value)."""

    line: int
    column: int
    value: "str | list[Node] | dict[str, tuple[Node, Node]] | None"
    """None where the value is broken and that was said."""
    whole: bool = True
    """False where the file breaks off inside."""


def read_yaml(
    data: bytes, where: str, limit: int, loader: type = _LOADER, *, strict_nfc: bool = False
) -> tuple[Node | None, list[Problem]]:
    """Reads one YAML document of plain text, lists and mappings, every scalar as written but in NFC.

    Walks the parser's events, so that nothing is built for anchors, aliases, merge keys, tags or deep nesting: they
    are problems, like duplicate keys, tabs and invisible characters, and what git left of a merge; with `strict_nfc`
    so is text that is not in NFC as it stands. The node is what stands before a syntax error.
    """
    text, problem = decode(data, where, limit)
    if problem:
        return None, [problem]
    if markers := [
        Problem(f"{where}:{number}", f"a conflict marker of git, '{short(line)}'", _MERGE)
        for number, line in enumerate(text.split("\n") if _CONFLICT.search(text) else (), 1)
        if _CONFLICT.fullmatch(line)
    ]:
        return None, markers
    text, problems = _visible(text, where)
    if b"\t" in data and re.search(rb"^[ \t\r\f\v-]*\t", data, re.M):
        return None, problems  # the nesting of such a file is anyone's guess
    builder = _Builder(where, problems, strict_nfc)
    try:
        for event in yaml.parse(text, Loader=loader):
            if not builder.take(event):
                break
    except yaml.MarkedYAMLError as e:
        builder.breaks(e)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as e:
        builder.say(None, f"is no valid YAML: {clean(str(e))}")
    if builder.root is None and not problems:
        problems.append(Problem(where, "is empty"))
    return builder.root, problems


def _visible(text: str, where: str) -> tuple[str, list[Problem]]:
    """Names each invisible character of a file and puts a space there, so that the rest can be read."""
    ends = [m.start() for m in re.finditer("\n", text)]
    problems: list[Problem] = []
    for bad in INVISIBLE.finditer(text):
        if len(problems) > MAX_PROBLEMS:  # a file of nothing else would be a million of them
            problems.append(Problem(where, "more tabs or invisible characters than are listed"))
            break
        line = bisect_right(ends, bad.start())
        column = bad.start() - (ends[line - 1] if line else -1)
        what = "a tab" if bad[0] == "\t" else f"an invisible character, U+{ord(bad[0]):04X}"
        problems.append(Problem(f"{where}:{line + 1}:{column}", what, "Wanted spaces." if bad[0] == "\t" else ""))
    return INVISIBLE.sub(" ", text), problems


@dataclass
class _Builder:
    """Makes nodes of events; a stack, not recursion, so that a broken file leaves what came before."""

    where: str
    problems: list[Problem]
    strict_nfc: bool = False
    root: Node | None = None
    stack: list[tuple[Node, Node | None]] = field(default_factory=list)
    """Open containers, each with the key that waits for its value."""
    anchors: set[str] = field(default_factory=set)
    closed: Node | None = None
    documents: int = 0

    def say(self, mark: Any, what: str, wanted: str = "") -> None:
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        self.problems.append(Problem(f"{self.where}{place}", what, wanted))

    def breaks(self, error: yaml.MarkedYAMLError) -> None:
        """Notes a syntax error; what was closed last may have been closed by it, so nothing is missed there."""
        said = (error.problem or error.context or "").strip()
        unended = "end of stream" in said
        mark = (error.context_mark if unended else error.problem_mark) or error.problem_mark or error.context_mark
        quoted = "mapping values are not allowed" in said or "cannot start any token" in said
        self.say(mark, f"is no valid YAML: {said}", "Put the text in double quotes." if quoted else "")
        if self.closed:
            self.closed.whole = False

    def take(self, event: Any) -> bool:
        """Takes one event; False ends the reading."""
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent | yaml.AliasEvent):
            return self._value(event)
        if isinstance(event, yaml.CollectionEndEvent):
            self.closed, _ = self.stack.pop()
            self.closed.whole = True
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if event.version or event.tags:
                self.say(event.start_mark, "a YAML directive", "Wanted a plain document.")
            if self.documents > 1:
                self.say(event.start_mark, "a second document", "Wanted one document a file: leave out the '---'.")
                return False
        return True

    def _value(self, event: Any) -> bool:
        mark = event.start_mark
        node = Node(mark.line + 1, mark.column + 1, self._content(event))
        self._place(node, event)
        if isinstance(event, yaml.CollectionStartEvent):
            node.whole = False
            self.stack.append((node, None))
            if len(self.stack) > MAX_DEPTH:
                self.say(mark, f"nested more than {MAX_DEPTH} deep")
                return False
        return True

    def _content(self, event: Any) -> "str | list[Node] | dict[str, tuple[Node, Node]] | None":
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self.say(
                    mark, f"an alias, '*{short(event.anchor or '')}'", "Write the text out, or put it in double quotes."
                )
            return None
        if event.anchor:
            self.anchors.add(event.anchor)
            self.say(
                mark, f"an anchor, '&{short(event.anchor or '')}'", "Write the text out, or put it in double quotes."
            )
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.say(mark, f"a tag, '{short(tag)}'", "Leave it out: every value is read as text.")
            return None
        if isinstance(event, yaml.ScalarEvent):
            value = clean(event.value)
            if wrong := fault(value):
                self.say(mark, f"the text {wrong}")
                return None
            if self.strict_nfc and not unicodedata.is_normalized("NFC", event.value):
                self.say(mark, f"the text is not in NFC: '{short(value)}'", "Type it again, or save the file in NFC.")
            return value
        return {} if isinstance(event, yaml.MappingStartEvent) else []

    def _place(self, node: Node, event: Any) -> None:
        """Puts a node where it belongs in the innermost open container."""
        if not self.stack:
            self.root = node
            return
        parent, key = self.stack[-1]
        if parent.value is None:
            return
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif key is None:
            self.stack[-1] = (parent, self._key(parent, node, event))
        else:
            self.stack[-1] = (parent, None)
            if isinstance(parent.value, dict) and isinstance(key.value, str):
                parent.value[key.value] = (key, node)

    def _key(self, parent: Node, node: Node, event: Any) -> Node:
        """Checks a key; a node without a text is a key whose value goes nowhere."""
        broken = Node(node.line, node.column, None)
        if not isinstance(node.value, str):
            if node.value is not None:
                self.say(event.start_mark, "a key that is no plain word")
            return broken
        if node.value == "<<" and not event.style:
            self.say(event.start_mark, "a merge key, '<<'", "Write the keys out.")
            return broken
        earlier = parent.value.get(node.value) if isinstance(parent.value, dict) else None
        if earlier:
            self.say(
                event.start_mark,
                f"duplicate key '{short(node.value)}'",
                f"It stands in line {earlier[0].line} already.",
            )
            return broken
        return node
