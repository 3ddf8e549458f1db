"""The loss curve: drawn while a training runs, kept afterwards, told on the terminal."""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fakes import FakeModels, make_project, open_project

from gonbuild.cli import Bars, main
from gonbuild.curves import drawn_live, keep_curve
from gonbuild.records import Progress, Row, quiet

TRAINING = {"losses": [[1, 2.5], [2, 2.0], [3, 1.25]], "seconds": 4.25, "tokens": 12345, "versions": {"torch": "2"}}


class Learning(FakeModels):
    """Learns in three updates, and looks at the picture after the first."""

    def __init__(self, picture: Path) -> None:
        super().__init__()
        self.picture, self.seen = picture, ""

    def train(self, rows: Sequence[Row], folder: Path, work: Path, progress: Progress, *_: object) -> None:
        self.log.append("train")
        progress("training", 0, 3)
        for step, loss in TRAINING["losses"]:
            progress("training", step, 3, loss)
            self.seen = self.seen or self.picture.read_text(encoding="utf-8")
        (folder / "training.json").write_text(json.dumps(TRAINING))
        (folder / "adapter_model.safetensors").write_bytes(b"weights")


def points(svg: str) -> int:
    (line,) = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return len(line.get("points", "").split())


def test_train_draws_the_curve_live_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "build/report"
    models = Learning(report / "training.svg")
    make_project(tmp_path)
    for _ in range(2):  # the second time the adapter is in the store
        assert main(["train", "--root", str(tmp_path)], lambda root, _: open_project(Path(root), models)) == 0
        told = capsys.readouterr()
        assert told.out.endswith("; its loss curve in build/report/training.svg\n")
        final = (report / "training.svg").read_text(encoding="utf-8")
        assert points(final) == 3
        assert "12,345 tokens in 4.2 s" in final
        assert "reload" not in final
        assert json.loads((report / "training.json").read_bytes()) == TRAINING
        for path in report.iterdir():
            path.unlink()
    assert models.log == ["train"]
    assert "Training, 1 of 3 updates" in models.seen
    assert "reload" in models.seen


def test_picture_is_drawn_at_most_once_a_second_and_at_the_end(tmp_path: Path) -> None:
    progress = drawn_live(quiet, tmp_path)
    titles = []
    for step in range(1, 41):
        progress("training", step, 40, 40.0 / step)
        titles.append((tmp_path / "training.svg").read_text(encoding="utf-8").split("<title>")[1].split("<")[0])
    assert len(set(titles)) < 10
    assert titles[-1] == "Training, 40 of 40 updates"
    assert points((tmp_path / "training.svg").read_text(encoding="utf-8")) == 40


def test_another_training_begins_another_curve(tmp_path: Path) -> None:
    progress = drawn_live(quiet, tmp_path)
    for _ in range(2):
        for step in range(1, 6):
            progress("training", step, 5, 1.0 / step)
    assert points((tmp_path / "training.svg").read_text(encoding="utf-8")) == 5


def test_progress_passes_through_and_steps_without_loss_draw_nothing(tmp_path: Path) -> None:
    told: list[tuple[object, ...]] = []
    progress = drawn_live(lambda *step: told.append(step), tmp_path / "report")
    progress("generating", 1, 2)
    assert told == [("generating", 1, 2, None)]
    assert not (tmp_path / "report").exists()


def test_picture_that_cannot_be_written_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file where the folder goes")
    drawn_live(quiet, tmp_path / "report")("training", 1, 2, 1.5)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"losses": 3, "tokens": 1, "seconds": 1}', '{"losses": []}'])
def test_adapter_without_a_readable_curve_leaves_the_report_as_it_is(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "training.json").write_text(text)
    keep_curve(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_plain_progress_tells_the_first_and_the_last_loss(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as progress:
        for _ in range(2):
            progress("training", 0, 3)
            for step, loss in TRAINING["losses"]:
                progress("training", step, 3, loss)
        progress("generating", 0, 1)
        progress("generating", 1, 1)
    once = ["training: 3 to do", "training: done, loss 2.50 -> 1.25"]
    assert capsys.readouterr().err.splitlines() == [*once, *once, "generating: 1 to do", "generating: done"]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_bar_shows_the_loss_and_its_course() -> None:
    shown = Terminal()
    with contextlib.redirect_stderr(shown), Bars() as progress:
        progress("training", 0, 4)
        for step, loss in TRAINING["losses"]:
            progress("training", step, 4, loss)
    assert "loss 1.25 █▅▁" in shown.getvalue()


def test_bar_of_a_step_is_gone_when_it_is_done_and_the_next_has_its_own() -> None:
    shown = Terminal()
    with contextlib.redirect_stderr(shown), Bars() as progress:
        for what in ("generating", "filtering"):
            progress(what, 0, 2)
            progress(what, 2, 2)
            assert shown.getvalue().endswith("\r")
    assert "filtering" in shown.getvalue().rpartition("generating")[2]


def test_second_process_of_a_launch_shows_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with Bars() as progress:
        progress("training", 0, 4)
        progress("training", 4, 4, 2.5)
    assert capsys.readouterr() == ("", "")
