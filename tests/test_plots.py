"""Pictures of figures: well-formed, the same bytes each time, every point and every bar in its place."""

import math
import os
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonbuild.plots import WIDTH, bar_chart, line_chart, sparkline, ticks

GOLDEN = Path(__file__).parent / "data" / "golden"
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = 'Lũ <script>alert("1")</script> & \x00\x1b[31m \ud800'
ROWS = [("pass", (60.0, 30.0)), ("dropped by effect", (None, 0.0)), (HOSTILE, (12.5, 7.25))]


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.encode())


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter(f"{SVG}text")]


def bars(svg: str) -> list[tuple[float, float]]:
    """Width and colour column of every bar."""
    found = [e for e in parsed(svg).iter(f"{SVG}rect") if e.get("class") == "bar"]
    return [(float(e.get("width", "")), float(e.get("y", ""))) for e in found]


def places(svg: str) -> list[list[tuple[float, float]]]:
    lines = [line.get("points", "").split() for line in parsed(svg).iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in points)] for points in lines]


def test_line_has_every_point_from_left_to_right_and_lower_values_lower() -> None:
    (found,) = places(line_chart("t", ("x", "y"), {"loss": [(n, 3 / n) for n in range(1, 41)]}))
    assert len(found) == 40
    assert found == sorted(found)
    assert [y for _, y in found] == sorted(y for _, y in found)  # y grows downwards
    assert all(0 < x < WIDTH for x, _ in found)


def test_every_series_has_its_line_and_its_name() -> None:
    svg = line_chart("t", ("x", "y"), {"ours": [(0, 1), (1, 2)], "theirs": [(0, 2), (1, 1)]})
    (first, second) = places(svg)
    assert first[0][1] == second[1][1]
    assert {"ours", "theirs", "x", "y", "t"} <= set(texts(svg))


def test_points_that_are_no_numbers_are_left_out() -> None:
    (found,) = places(line_chart("t", ("x", "y"), {"loss": [(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)]}))
    assert len(found) == 2


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, math.nan)], [(1.0, 2.0), (1.0, 2.0)]])
def test_few_points_make_a_picture_still(points: list[tuple[float, float]]) -> None:
    assert parsed(line_chart("t", ("x", "y"), {"loss": points})).tag == f"{SVG}svg"


def test_bars_are_as_long_as_their_values_and_none_draws_none() -> None:
    found = bars(bar_chart("t", "%", ["base", "adapter"], ROWS))
    assert len(found) == 5
    longest = found[0][0]
    assert [width / longest for width, _ in found] == pytest.approx([1, 0.5, 0, 12.5 / 60, 7.25 / 60], abs=1e-3)
    assert len({y for _, y in found}) == 5


def test_values_stand_behind_their_bars() -> None:
    svg = bar_chart("t", "share, %", ["base", "adapter"], ROWS)
    assert {"60.0", "30.0", "0.0", "12.5", "7.2", "base", "adapter", "share, %"} <= set(texts(svg))


def test_texts_are_escaped_and_control_characters_are_blanks() -> None:
    for svg in (
        line_chart(HOSTILE, (HOSTILE, HOSTILE), {HOSTILE: [(1, 1)]}),
        bar_chart(HOSTILE, HOSTILE, [HOSTILE], ROWS),
    ):
        assert not list(parsed(svg).iter(f"{SVG}script"))
        assert 'Lũ <script>alert("1")</script> &   [31m  ' in texts(svg)


def test_only_a_live_picture_reads_itself_again() -> None:
    assert "reload" in line_chart("t", ("x", "y"), {}, reload=True)
    assert "reload" not in line_chart("t", ("x", "y"), {})


@pytest.mark.parametrize("name", ["line", "bars"])
def test_picture_is_the_golden_one(name: str) -> None:
    line = line_chart("Tập huấn", ("updates", "loss, nats per token"), {"loss": [(1, 2.5), (2, 1.75), (3, 1.5)]})
    svg = {"line": line, "bars": bar_chart("24 cards", "share, %", ["base", "adapter"], ROWS[:2])}[name]
    golden = GOLDEN / f"{name}.svg"
    if os.environ.get("GONBUILD_UPDATE_GOLDEN"):
        golden.write_text(svg, encoding="utf-8")
    assert svg == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "width", "wanted"),
    [
        ([], 8, ""),
        ([2.0], 8, "▁"),
        ([1.0, 1.0, 1.0], 8, "▁▁▁"),
        ([8, 7, 6, 5, 4, 3, 2, 1], 8, "█▇▆▅▄▃▂▁"),
        ([8, 8, 4, 4, 1, 1], 3, "█▄▁"),
        ([1, 2, 3, 4, 5], 2, "▁█"),
        ([3.0, math.nan, math.inf, 1.0], 8, "█▁"),
    ],
)
def test_sparkline_shows_the_course_in_at_most_width_blocks(values: list[float], width: int, wanted: str) -> None:
    assert sparkline(values, width) == wanted


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_round_evenly_apart_and_hold_the_range(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert found[0] <= low + 1e-6 * span
    assert found[-1] >= low + span * (1 - 1e-6)
    assert 3 <= len(found) <= 7
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    assert f"{steps[0]:.0e}"[0] in "125"
