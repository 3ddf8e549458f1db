"""Owns what is kept between builds: entries under `kind/key`, written aside and renamed, every byte checked when read.

It knows nothing of cards or models, and a damaged entry is a miss, never an error.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gonbuild.disk import damage, file_digests, full_disk_named, remove_left, sync, write_aside, write_synced
from gonbuild.errors import MachineError, Problem
from gonbuild.records import canonical, digest

MANIFEST = "manifest.json"
KINDS = ("adapter", "candidates", "copies", "identity", "library", "packs", "quarantine", "refused", "training")


@dataclass(frozen=True)
class Entry:
    """One kept thing; `size` in bytes, manifest included."""

    kind: str
    key: str
    size: int


class Store:
    """A folder of entries; `warn` is told one line for each entry that had to be set aside (by default nobody is)."""

    def __init__(self, root: Path, warn: Callable[[str], object] = len) -> None:
        self.root = root
        self.warn = warn

    def has(self, kind: str, key: str) -> bool:
        """Tells whether an entry is there, by its manifest and file sizes alone: cheap enough for a plan."""
        manifest = self.manifest(kind, key)
        folder = self.root / kind / key
        return manifest is not None and all(
            (folder / name).is_file() and (folder / name).stat().st_size == told["size"]
            for name, told in manifest["files"].items()
        )

    def get(self, kind: str, key: str) -> Path | None:
        """Returns the folder of an entry whose every byte matches its manifest; sets a damaged one aside."""
        folder = self.root / kind / key
        if not folder.is_dir():
            return None
        manifest = self.manifest(kind, key)
        wrong = "no readable manifest" if manifest is None else damage(folder, manifest["files"], MANIFEST)
        if not wrong:
            return folder
        self._quarantine(folder, wrong)
        return None

    def put(self, kind: str, key: str, inputs: Any, fill: Callable[[Path], None]) -> Path:
        """Makes an entry: `fill` writes its files into an empty folder, which is renamed into place when whole.

        Where another process was faster, its entry stays and is returned.

        Raises:
            MachineError: the disk is full.
        """
        target = self.root / kind / key
        with full_disk_named(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_left(target.parent.glob(f".{key[:16]}.*"))
            aside = Path(tempfile.mkdtemp(prefix=f".{key[:16]}.{os.getpid()}.", dir=target.parent))
            aside.chmod(target.parent.stat().st_mode)  # mkdtemp's are for one user alone; a store may be shared
            try:
                fill(aside)
                files = file_digests(aside)
                for name in files:
                    (aside / name).chmod(aside.stat().st_mode & 0o666)  # safetensors' are for one user alone, likewise
                    sync(aside / name)
                write_aside(aside / MANIFEST, manifest_bytes(kind, key, inputs, files))
                try:
                    aside.rename(target)
                except OSError:
                    if self.get(kind, key) is None:  # what stood in the way was damaged, and is now set aside
                        aside.rename(target)
                sync(target.parent)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return target

    @contextlib.contextmanager
    def scratch(self, kind: str, key: str) -> Iterator[Path]:
        """Lends a folder for long work under a key, which stays until the work has ended.

        Of other work that did not end, the two latest stay.
        """
        folder = self.root / kind / key
        if folder.is_symlink():  # work would be done, and cleared away, wherever it leads
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted((f for f in folder.parent.iterdir() if f != folder), key=lambda f: f.stat().st_mtime)
        for other in others[:-2]:
            shutil.rmtree(other, ignore_errors=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def inputs(self, kind: str, key: str) -> Any:
        """Returns the inputs that an entry was made from, None where it is not there."""
        manifest = self.manifest(kind, key)
        return manifest["inputs"] if manifest else None

    def read_json(self, kind: str, key: str) -> Any:
        """Returns the value of an entry made by `put_json`, None where there is none."""
        folder = self.get(kind, key)
        return json.loads((folder / "value.json").read_bytes()) if folder else None

    def put_json(self, kind: str, key: str, inputs: Any, value: Any) -> None:
        """Keeps a JSON value."""
        data = canonical(value).encode()
        self.put(kind, key, inputs, lambda folder: write_synced(folder / "value.json", data))

    def memo(self, kind: str, inputs: Any, compute: Callable[[], Any]) -> Any:
        """Returns the JSON value of cheap work on these inputs, from the store where it is kept."""
        key = digest(inputs)
        value = None
        with contextlib.suppress(OSError):
            value = self.read_json(kind, key)
        if value is None:
            value = compute()
            with contextlib.suppress(OSError, MachineError):  # a read-only or full disk works, only slower
                self.put_json(kind, key, None, value)
        return value

    @contextlib.contextmanager
    def lock(self, timeout_s: float, name: str = "build.lock", other: str = "another build") -> Iterator[None]:
        """Holds the only right to build; waits for another build, and goes with the process if it dies.

        `name` is another right's file, and `other` who holds it then, for a message.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / name
        try:
            with FileLock(path, timeout=timeout_s, fallback_to_soft=False):
                self._sweep()
                yield
        except Timeout:
            wanted = "Wait for it, or raise machine.lock_timeout_s."
            raise MachineError(Problem(str(path), f"{other} ran for over {timeout_s:g} s", wanted)) from None

    def entries(self) -> list[Entry]:
        """Lists what is kept, sorted by kind and key."""
        found = []
        for manifest in sorted(self.root.glob(f"*/*/{MANIFEST}")):
            folder = manifest.parent
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            found.append(Entry(folder.parent.name, folder.name, size))
        return found

    def clear(self, timeout_s: float) -> None:
        """Removes everything that is kept; the next build makes it again. Other files in the folder stay."""
        with self.lock(timeout_s):
            for kind in KINDS:
                if (self.root / kind).is_dir():
                    shutil.rmtree(self.root / kind)

    def manifest(self, kind: str, key: str) -> Any:
        """Returns what an entry says of itself, None where it is not there: `files`, `inputs`, `key` and `kind`.

        It is taken at its word only if it is, to the byte, what would be written for this key: inputs that are told
        are those that the key is the digest of.

        Raises:
            OSError: it is there and cannot be read.
        """
        try:
            data = (self.root / kind / key / MANIFEST).read_bytes()
            manifest = json.loads(data)
            sound = (
                data == manifest_bytes(kind, key, manifest["inputs"], manifest["files"])
                and (manifest["inputs"] is None or digest(manifest["inputs"]) == key)
                and all(isinstance(f["size"], int) and isinstance(f["sha256"], str) for f in manifest["files"].values())
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return manifest if sound else None

    def _sweep(self) -> None:
        """Removes what builds that were killed left half written."""
        for kind in KINDS:
            remove_left((self.root / kind).glob(".*"))

    def _quarantine(self, folder: Path, wrong: str) -> None:
        with contextlib.suppress(OSError):  # where it cannot be set aside it stays a miss
            aside = self.root / "quarantine"
            aside.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=f"{folder.parent.name}-{folder.name[:16]}-", dir=aside))
            folder.rename(place / folder.name)
        self.warn(f"cache entry {folder.parent.name}/{folder.name[:16]} is damaged ({wrong}); it is made again")


def manifest_bytes(kind: str, key: str, inputs: Any, files: Any) -> bytes:
    """Returns the manifest of an entry as it is written, here and in a remote."""
    value = {"files": files, "inputs": inputs, "key": key, "kind": kind}
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()
