"""Owns talking to a shared folder through fsspec: each request has its time, and each failure is one error.

It knows no entries, and imports fsspec and the driver of a URL when something is first asked of it.
"""

import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gonbuild.errors import GonbuildError, InputError, MachineError, Problem, near

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

CHUNK = 4 << 20
SLOWEST = 100_000
"""Bytes per second that sending may come down to before it is given up."""


class UnreachableError(Exception):
    """The remote gave no answer, or another one than was asked for."""


def open_url(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, and the path there.

    Raises:
        InputError: no file system is known for such a URL.
        MachineError: the package that drives it is not installed.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        cure = near(scheme, fsspec.available_protocols()) or "Wanted file, s3, gs, hf or another one of fsspec's."
        raise InputError(Problem("cache.remote", f"no driver is known for '{scheme}://'", cure)) from None
    except ImportError as e:
        cure = "Install it: pip install -c constraints.txt -e '.[s3]'." if scheme in ("s3", "s3a") else f"{e}."
        raise MachineError(Problem("cache.remote", f"the driver of '{scheme}://' is not installed", cure)) from None
    files, path = fsspec.url_to_fs(url, skip_instance_cache=True)
    if scheme in ("file", "local"):
        files.auto_mkdir = True  # as object stores do by themselves
    return files, path.rstrip("/")


class Driver:
    """The folder of a URL; `timeout_s` is for each answer, and `opener` gives its file system and path.

    Every method raises FileNotFoundError where there is no such file, UnreachableError for any other failure, and
    what `open_url` raises.
    """

    def __init__(self, url: str, timeout_s: float, opener: Callable[[str], tuple[Any, str]] = open_url) -> None:
        self.url, self._timeout_s, self._opener = url, timeout_s, opener

    def read(self, name: str, most: int) -> bytes:
        """Returns a file's first bytes, `most` of them at most."""

        def read() -> bytes:
            with self._open(name) as file:
                data: bytes = file.read(most)
                return data

        return self._ask(read)

    def size(self, name: str) -> int:
        """Returns a file's size in bytes."""
        return self._ask(lambda: int(self._root[0].size(f"{self._root[1]}/{name}")))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yields a file's bytes, some MB at a time."""
        with self._ask(lambda: self._open(name)) as file:
            while data := self._ask(lambda: file.read(CHUNK)):
                yield data

    def send(self, source: Path, name: str, tell: Callable[[int], None]) -> None:
        """Writes a file from a local one, and tells how many bytes of it were sent so far."""

        def put() -> None:
            from fsspec.callbacks import Callback

            files, folder = self._root
            sent = Callback(hooks={"tell": lambda _size, value, **_: tell(value)})
            files.put_file(str(source), f"{folder}/{name}", callback=sent)

        size = source.stat().st_size
        self._ask(put, size)
        tell(size)

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file."""
        self._ask(lambda: self._root[0].pipe_file(f"{self._root[1]}/{name}", data))

    @cached_property
    def _root(self) -> tuple[Any, str]:
        return self._opener(self.url)

    def _open(self, name: str) -> Any:
        files, folder = self._root
        return files.open(f"{folder}/{name}", "rb", block_size=CHUNK)

    def _ask(self, call: Callable[[], T], size: int = 0) -> T:
        """Returns what a request gives, in the time that is allowed for it and for the bytes it sends.

        Drivers retry for minutes, each in its own way; one that was given up goes on in a thread that dies with us.
        """
        from concurrent.futures import Future, wait  # it loads logging: 4 ms that a build with nothing to do is spared

        answer: Future[T] = Future()
        threading.Thread(target=partial(_settle, answer, call), daemon=True).start()
        limit_s = self._timeout_s + size / SLOWEST
        if not wait([answer], limit_s).done:
            raise UnreachableError(f"no answer in {limit_s:g} s (cache.timeout_s)")
        try:
            return answer.result()
        except (FileNotFoundError, GonbuildError):
            raise
        except Exception as e:  # every driver has errors of its own
            raise UnreachableError(" ".join(f"{type(e).__name__}: {e}".split())[:200]) from e


def _settle(answer: "Future[T]", call: Callable[[], T]) -> None:
    try:
        answer.set_result(call())
    except BaseException as e:
        answer.set_exception(e)
