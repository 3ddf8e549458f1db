"""Owns writing folders whole or not at all, and saying that a disk is full; knows nothing of what is written."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gonbuild.errors import MachineError, Problem

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large",
}
TORCH_WRITER = "inline_container"
"""In what torch says when a file cannot be written; the reason is lost there."""


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turns the libraries' words for a full disk into an error that names the path.

    Raises:
        MachineError: what runs inside met a full disk, a used-up quota or a limit on file sizes.
    """
    try:
        yield
    except Exception as e:
        what = _why(e)
        if not what:
            raise
        wanted = "Free some space and run the same command again; GONBUILD_CACHE moves the cache to another disk."
        raise MachineError(Problem(str(path), f"cannot be written: {what}", wanted)) from e


def _why(error: BaseException | None) -> str:
    """Says why a disk took no more, looking through the errors that others were made of; empty for other errors."""
    while error is not None:
        text = str(error)
        for number, words in FULL.items():
            # safetensors' errors carry Rust's number in their text alone.
            if (isinstance(error, OSError) and error.errno == number) or f"(os error {number})" in text:
                return words
        if isinstance(error, RuntimeError) and TORCH_WRITER in text:
            return "the disk is full or fails"
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """Lends an empty folder that becomes `target`, which must not exist yet, when all went well, and else goes.

    Raises:
        MachineError: the disk is full.
    """
    with full_disk_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name[:16]}.", dir=target.parent))
        try:
            yield aside
            for path in (aside, *aside.rglob("*")):  # mkdtemp's are for one user alone, and safetensors' files too
                path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
