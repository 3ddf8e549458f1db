"""Owns the picture of a training's loss in a folder, while it runs and afterwards; knows no model and no settings."""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from gonbuild.disk import write_aside
from gonbuild.errors import MachineError
from gonbuild.plots import Point, line_chart
from gonbuild.records import Progress

KEPT, PICTURE = "training.json", "training.svg"
EVERY_S = 1.0
"""Seconds between two pictures of a running training, at least."""


def drawn_live(progress: Progress, folder: Path) -> Progress:
    """Returns a progress that passes everything on and draws the losses of a training into the folder as they come.

    What cannot be written is left undrawn: a picture stops no training.
    """
    points: list[Point] = []
    last = -EVERY_S

    def told(what: str, done: int, total: int, loss: float | None = None, /) -> None:
        nonlocal last
        progress(what, done, total, loss)
        if loss is None:
            return
        if points and done <= points[-1][0]:
            points.clear()  # another training began
        points.append((float(done), loss))
        if done == total or time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            picture = _picture(f"Training, {done} of {total} updates", points, reload=done < total)
            _write(folder, {PICTURE: picture.encode()})

    return told


def keep_curve(adapter: Path, folder: Path) -> None:
    """Writes the figures that an adapter's training left, with their picture, into a folder; nothing without them."""
    try:
        data = (adapter / KEPT).read_bytes()
        training = json.loads(data)
        points = [(float(step), float(loss)) for step, loss in training["losses"]]
        title = f"Training of adapter {adapter.name[:8]}: {training['tokens']:,} tokens in {training['seconds']:.1f} s"
    except (OSError, ValueError, KeyError, TypeError):
        return
    _write(folder, {KEPT: data, PICTURE: _picture(title, points).encode()})


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    with contextlib.suppress(OSError, MachineError):  # a full disk is one of ours
        for name, data in files.items():
            write_aside(folder / name, data)


def _picture(title: str, points: list[Point], *, reload: bool = False) -> str:
    return line_chart(title, ("updates", "loss, nats per token"), {"loss": points}, reload=reload)
