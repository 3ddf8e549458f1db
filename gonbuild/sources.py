"""Owns the strict reading of what people write: bytes to text, and what of a text may go on; knows no cards."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from gonbuild.errors import MachineError, Problem

MAX_PROBLEMS = 50
DEVICE_NAMES = frozenset(("con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))))

INVISIBLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff9-\uffff\U000e0000-\U000e0fff]"
)
_TEMPLATE_TAG = re.compile(r"<\||</?(?:s|unk|pad)>")


def read_bytes(path: Path, root: Path, limit: int) -> tuple[bytes, Problem | None]:
    """Reads a file of a project, `limit` bytes of it and one more at most, or says why not: no file, a way out of it.

    Raises:
        MachineError: the disk fails, or this user may not read there.
    """
    where = path.relative_to(root).as_posix()
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            return b"", Problem(where, "is a link that leaves the project", "Copy the file here.")
        if not path.is_file():
            return b"", Problem(where, "is no file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # Python makes room for all that may be read
            data = file.read(min(size, limit) + 1)
    except RuntimeError as e:
        return b"", Problem(where, f"cannot be read: {e}")
    except OSError as e:
        wanted = "Is the disk sound, and may you read there?"
        raise MachineError(Problem(where, f"cannot be read: {e.strerror or e}", wanted)) from None
    return data, None


def decode(data: bytes, where: str, limit: int) -> tuple[str, Problem | None]:
    """Decodes UTF-8 text, a BOM and Windows line ends accepted; a file that is no such text is one problem."""
    if len(data) > limit:
        return "", Problem(where, f"is larger than {limit >> 20} MiB", "Split it.")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        return "", Problem(where, f"is no text: a NUL byte at byte {data.index(0)}", "Save it as UTF-8.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        return "", Problem(f"{where}:{line}", f"is not UTF-8 at byte {e.start}", "Save it as UTF-8.")
    if not text.strip():
        return "", Problem(where, "is empty")
    return text.replace("\r\n", "\n"), None


def clean(text: str) -> str:
    """Returns the text in NFC on one line, each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def fault(text: str) -> str:
    """Says what in a cleaned text may not reach a model or a reader's eyes; empty where nothing."""
    if bad := INVISIBLE.search(text):
        return f"has an invisible character, U+{ord(bad[0]):04X}"
    if tag := _TEMPLATE_TAG.search(text):
        return f"has '{tag[0]}', which belongs to the chat template"
    return ""


def short(text: str, most: int = 60) -> str:
    """Returns a text as a message may quote it: so many characters at most, nothing invisible."""
    text = INVISIBLE.sub("?", text)
    return text if len(text) <= most else text[: most - 3] + "..."


def in_order(problems: list[Problem], where: str) -> list[Problem]:
    """Sorts one file's problems by line and column and counts those that are too many to read."""
    ordered = sorted(problems, key=lambda p: [int(n) for n in p.where.removeprefix(where).split(":")[1:]])
    more = len(ordered) - MAX_PROBLEMS
    return [*ordered[:MAX_PROBLEMS], Problem(where, f"has {more} more problems")] if more > 0 else ordered


def places(text: str) -> Iterator[tuple[int, str]]:
    """Yields the number and the text of every line that is not blank; only a line feed ends a line."""
    return ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
