"""Owns the adapters in a store that machines share: fetches them from it and sends them there, trusting no byte of it.

Trouble with it is a warning and never the end of a build.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gonbuild.driver import Driver, UnreachableError
from gonbuild.records import Progress, digest, quiet
from gonbuild.settings import CacheSettings
from gonbuild.store import MANIFEST, Store, manifest_bytes

Files = dict[str, dict[str, Any]]
"""Name of a file -> its `sha256`, and its `size` in bytes."""
Tell = Callable[[str, int], None]

KIND = "adapter"
WEIGHTS = "adapter_model.safetensors"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(safetensors|json)")
"""What travels: weights and JSON, neither of which can hold code, in one flat folder."""
GO_ON = "the build goes on without it (what it needs: README, 'A shared store')"
MOST_FILES, MOST_BYTES, MOST_MANIFEST = 32, 16 << 30, 32 << 20


class RefusedError(Exception):
    """An entry of the remote is not what it should be; the message says how."""


def why_read_only(environ: Mapping[str, str]) -> str:
    """Tells why nothing may be sent from here, nothing where it may: a pull request only reads what main made.

    It keeps honest builds from it. What keeps others is that a pull request has no credentials to write with.
    """
    if environ.get("GONBUILD_REMOTE_READ_ONLY", "0") not in ("", "0"):
        return "GONBUILD_REMOTE_READ_ONLY is set"
    if environ.get("GITHUB_EVENT_NAME", "").startswith("pull_request") or environ.get("CI_MERGE_REQUEST_IID"):
        return "this is a pull request"
    return ""


def travels(name: str) -> bool:
    """Tells whether a file of an entry may be sent or fetched, by its name within the entry."""
    return NAME.fullmatch(name) is not None and name.lower() != MANIFEST


def read_manifest(data: bytes, key: str) -> tuple[Any, Files]:
    """Returns the inputs and the files that a manifest of somebody's tells of.

    Raises:
        RefusedError: it is no manifest of this adapter, or tells of files that no adapter of ours has.
    """
    try:
        told = json.loads(data)
        kind, found, inputs, files = told["kind"], told["key"], told["inputs"], told["files"]
        same = kind == KIND and found == key and digest(inputs) == key
        files = {name: {"sha256": file["sha256"], "size": file["size"]} for name, file in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RefusedError("its manifest cannot be read") from None
    if not same:
        raise RefusedError("its manifest is of another entry")
    if WEIGHTS not in files or len(files) > MOST_FILES:
        raise RefusedError(f"its manifest names no {WEIGHTS}, or too many files")
    for name, file in files.items():
        if not travels(name):
            raise RefusedError("its manifest names a file that no adapter has")
        if type(file["size"]) is not int or file["size"] < 0 or type(file["sha256"]) is not str:
            raise RefusedError(f"its manifest tells no size or sha256 of {name}")
    if sum(file["size"] for file in files.values()) > MOST_BYTES:
        raise RefusedError(f"it is larger than {MOST_BYTES >> 30} GiB")
    return inputs, files


class Remote:
    """The shared store of a project; where none is set, pulling and pushing do nothing.

    Troubles are told to `store.warn`, a line each. `driver` reaches the remote; tests put their own there.
    """

    def __init__(
        self,
        settings: CacheSettings,
        store: Store,
        environ: Mapping[str, str] = os.environ,
        driver: Driver | None = None,
    ) -> None:
        self._url, self._store, self._environ = settings.remote, store, environ
        self._driver = driver or Driver(settings.remote, settings.timeout_s)
        self._damaged: set[str] = set()

    def pull(self, key: str, progress: Progress = quiet) -> Path | None:
        """Fetches an adapter into the store and returns its folder there; None where the remote has none that is sound.

        Raises:
            InputError, MachineError: the URL has no driver here.
            OSError: the store cannot be written.
        """
        if not self._url:
            return None
        name = f"remote entry {KIND}/{key[:16]}"
        try:
            told = self._manifest(key)
            if told is None:
                return None
            inputs, files = told
            return self._store.put(KIND, key, inputs, lambda aside: self._fetch(key, files, aside, progress))
        except RefusedError as e:
            self._damaged.add(key)
            self._store.warn(f"{name} is not used: {e}")
        except UnreachableError as e:
            self._store.warn(f"{name} cannot be fetched from {self._url}: {e}; {GO_ON}")
        return None

    def push(self, key: str, progress: Progress = quiet) -> bool:
        """Sends an adapter that the store holds, manifest last, and tells whether the remote has one under its key now.

        A sound one that is there stays: others may have used it. One that was damaged when it was pulled is replaced.

        Raises:
            InputError, MachineError: the URL has no driver here.
        """
        if not self._url:
            return False
        name = f"adapter {key[:8]}"
        if why := why_read_only(self._environ):
            self._store.warn(f"{name} is not sent to {self._url}: {why}")
            return False
        made = self._store.manifest(KIND, key)
        files = {file: told for file, told in made["files"].items() if travels(file)}
        try:
            there = self._there(key)
            if there is None:
                self._send(key, files, progress)
                self._driver.write(f"{KIND}/{key}/{MANIFEST}", manifest_bytes(KIND, key, made["inputs"], files))
                self._damaged.discard(key)
            elif there != files:
                self._store.warn(f"{self._url} has another {name} by now, which stays; this machine keeps its own")
        except (UnreachableError, FileNotFoundError) as e:
            cure = "it is kept here, and `gonbuild cache push` sends it later"
            self._store.warn(f"{name} cannot be sent to {self._url}: {e}; {cure}")
            return False
        return True

    def _manifest(self, key: str) -> tuple[Any, Files] | None:
        try:
            data = self._driver.read(f"{KIND}/{key}/{MANIFEST}", MOST_MANIFEST + 1)
        except FileNotFoundError:
            return None
        if len(data) > MOST_MANIFEST:
            raise RefusedError("its manifest is too large")
        return read_manifest(data, key)

    def _there(self, key: str) -> Files | None:
        """Returns the files of the remote's entry, None where there is none that anybody could use."""
        try:
            told = self._manifest(key)
            if told is None or key in self._damaged:
                return None
            sound = all(self._driver.size(f"{KIND}/{key}/{name}") == file["size"] for name, file in told[1].items())
        except (RefusedError, FileNotFoundError):
            return None
        return told[1] if sound else None

    def _fetch(self, key: str, files: Files, aside: Path, progress: Progress) -> None:
        tell = _megabytes(f"fetching adapter {key[:8]}, MB", files, progress)
        for name, told in files.items():
            try:
                self._fetch_file(f"{KIND}/{key}/{name}", told, aside / name, tell)
            except FileNotFoundError:
                raise RefusedError(f"{name} is missing") from None

    def _fetch_file(self, path: str, told: Mapping[str, Any], target: Path, tell: Tell) -> None:
        left, found = told["size"], hashlib.sha256()
        with target.open("xb") as local:
            for data in self._driver.chunks(path):
                left -= len(data)
                if left < 0:
                    raise RefusedError(f"{target.name} is larger than its manifest says")
                found.update(data)
                local.write(data)
                tell(target.name, told["size"] - left)
        if left:
            raise RefusedError(f"{target.name} is smaller than its manifest says")
        if found.hexdigest() != told["sha256"]:
            raise RefusedError(f"{target.name} does not match its sha256")

    def _send(self, key: str, files: Files, progress: Progress) -> None:
        tell = _megabytes(f"sending adapter {key[:8]}, MB", files, progress)
        for name in files:
            source = self._store.root / KIND / key / name
            self._driver.send(source, f"{KIND}/{key}/{name}", partial(tell, name))


def _megabytes(what: str, files: Files, progress: Progress) -> Tell:
    """Returns what is told (file, bytes of it done) and tells `progress` of them all, in MB."""
    done, size = dict.fromkeys(files, 0), sum(file["size"] for file in files.values())
    total = max(1, round(size / 1e6))
    progress(what, 0, total)

    def tell(name: str, count: int) -> None:
        if count != done[name]:
            done[name] = count
            now = sum(done.values())
            progress(what, total if now == size else min(round(now / 1e6), total - 1), total)

    return tell
