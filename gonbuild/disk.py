"""Owns files and folders that are whole or not there, knowing what they held, and saying that a disk is full.

It knows nothing of what is written.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gonbuild.errors import MachineError, Problem

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large",
}
SEAL = "seal.json"
FAILING = {
    **FULL,
    **{n: os.strerror(n) for n in (errno.EIO, errno.EINTR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE)},
}
_REFUSED = re.compile(r"([^:]*) \((?:os error \d+\)|\d+\)$)")
"""How Rust, and at its end torch, tell a failed call's number."""
TORCH_WRITERS = ("inline_container", "iostream error")
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
        what = disk_trouble(e)
        if not what:
            raise
        wanted = "Free some space and run the same command again; GONBUILD_CACHE moves the cache to another disk."
        raise MachineError(Problem(str(path), f"cannot be written: {what}", wanted)) from e


def disk_trouble(error: BaseException | None, kinds: Mapping[int, str] = FULL) -> str:
    """Says what a disk refused, looking through the errors that others were made of; empty for other errors.

    `kinds` are the numbers of an OSError that are meant, and their words.
    """
    while error is not None:
        text = str(error)
        for number, words in kinds.items():
            # safetensors' errors carry Rust's number in their text alone.
            if (isinstance(error, OSError) and error.errno == number) or f"(os error {number})" in text:
                return words
        if not isinstance(error, OSError) and (told := _REFUSED.search(text)):
            return f"the disk refuses ({told[1].strip()})"
        if isinstance(error, RuntimeError) and any(word in text for word in TORCH_WRITERS):
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


def links_out(root: Path, names: Iterable[str]) -> list[Problem]:
    """Names the folders of a project that are links to elsewhere: a build would write there, or clear it away."""
    home = os.path.realpath(root)
    return [
        Problem(name, "is a link that leaves the project", "Put a folder there; GONBUILD_CACHE moves the cache.")
        for name in names
        if (root / name).is_symlink() and not _within(home, root / name)
    ]


def _within(home: str, link: Path) -> bool:
    return link.exists() and os.path.commonpath([home, os.path.realpath(link)]) == home


def committed(root: Path, folder: str) -> int:
    """Counts the files of a folder that git tracks; none where there is no git."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--", folder]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return 0
    return done.stdout.count(b"\0")


def file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns `sha256` and `size` in bytes of each file in a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": _sha256(path), "size": path.stat().st_size} for path in files
    }


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]], beside: str) -> str:
    """Says how a folder differs from the files that it was written with, empty where it does not.

    `beside` is a file that tells of the others and not of itself. Links are none of ours, wherever they lead.
    """
    links = [folder, *(path for path in folder.rglob("*") if path.is_symlink())]
    if links[0].is_symlink() or links[1:]:
        return f"{links[-1].name} is a link"
    if more := sorted({p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {*files, beside}):
        return f"{more[0]} does not belong there"
    for name, told in files.items():
        try:
            size, found = (folder / name).stat().st_size, _sha256(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        if size != told["size"]:
            return f"{name} does not have its size"
        if found != told["sha256"]:
            return f"{name} does not match its sha256"
    return ""


def seal(folder: Path) -> None:
    """Notes in a folder what it holds, so that `is_sealed` can tell that it is still so."""
    (folder / SEAL).unlink(missing_ok=True)
    (folder / SEAL).write_text(json.dumps(file_digests(folder), indent=1) + "\n", encoding="utf-8")


def is_sealed(folder: Path) -> bool:
    """Tells whether a folder holds what it did when it was sealed."""
    try:
        return not damage(folder, json.loads((folder / SEAL).read_bytes()), SEAL)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:  # adapters are some hundred MB: hashed as they are read, never held
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_left(asides: Iterable[Path]) -> None:
    """Removes what ended processes left half written; the number of each stands in the name, last but one."""
    for aside in asides:
        if not _runs(aside.name.split(".")[-2]):
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink(missing_ok=True)


def write_aside(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old bytes or the new ones, never part of them.

    Raises:
        MachineError: the disk is full.
    """
    write_all_aside({path: data})


def write_all_aside(files: Mapping[Path, bytes | None]) -> None:
    """Writes files as `write_aside` does, in their order, or deletes those with None: all of it or nothing.

    None changes before all bytes are on the disk, and where one cannot be changed then, those before it become what
    they were. What a process that was killed left half written of the same files goes.
    """
    asides = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, data in files.items():
            with full_disk_named(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_left(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))
                if data is not None:
                    write_synced(asides[path], data)
        _change({path: asides[path] if data is not None else None for path, data in files.items()})
    finally:
        for aside in asides.values():
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def _change(asides: Mapping[Path, Path | None]) -> None:
    earlier: dict[Path, bytes | None] = {}
    try:
        for path, aside in asides.items():
            earlier[path] = path.read_bytes() if path.is_file() else None
            if aside is None:
                path.unlink(missing_ok=True)
            else:
                aside.replace(path)
            sync(path.parent)
    except BaseException:
        for path, data in reversed(earlier.items()):
            with contextlib.suppress(OSError):
                path.unlink() if data is None else _put_back(path, data)
        raise


def _put_back(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_synced(aside, data)
    aside.replace(path)


def _runs(number: str) -> bool:
    """Tells whether there is a process of this number here."""
    try:
        with contextlib.suppress(PermissionError):  # it is another user's
            os.kill(int(number), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    return True


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file, and waits until the disk has it."""
    path.write_bytes(data)
    sync(path)


def sync(path: Path) -> None:
    """Waits until the disk has a file, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
