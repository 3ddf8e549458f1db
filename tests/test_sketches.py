"""The report's small pictures: well-formed, every value in its bar, the same bytes each time."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonbuild.sketches import MOST_BINS, bin_width, histogram, loss_curve


def heights(svg: str, kind: str) -> list[float]:
    return [float(e.get("height", "")) for e in ElementTree.fromstring(svg).iter("rect") if e.get("class") == kind]


def test_bars_are_as_high_as_their_counts_and_stand_on_each_other() -> None:
    svg = histogram("words", [1, 1, 1, 2], [1, 3], [])
    kept, dropped = heights(svg, "kept"), heights(svg, "dropped")
    assert kept[0] == pytest.approx(3 * kept[1])
    assert dropped == pytest.approx([kept[1]] * 2)
    assert 'aria-label="words: 4 kept, 2 dropped, from 1 to 3"' in svg


def test_limits_are_marked_though_no_value_is_near() -> None:
    svg = histogram("words", [20.0, 21.0], [], [12, 40])
    lines = [e for e in ElementTree.fromstring(svg).iter("line") if e.get("class") == "limit"]
    first, last = sorted(float(e.get("x1", "")) for e in lines)
    (bar,) = [float(e.get("x", "")) for e in ElementTree.fromstring(svg).iter("rect")]
    assert first < bar < last


def test_without_values_there_is_no_picture() -> None:
    assert histogram("words", [], [], [12]) == ""
    assert loss_curve([]) == ""
    assert loss_curve([(1, math.nan)]) == ""


def test_label_is_escaped() -> None:
    assert "<script>" not in histogram('<script>"', [1.0], [], [])


VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(VALUES, VALUES, st.lists(st.floats(-100, 100), max_size=2))
def test_every_histogram_is_well_formed_and_inside_its_frame(
    kept: list[float], dropped: list[float], limits: list[float]
) -> None:
    svg = histogram("x", kept, dropped, limits)
    assert svg == histogram("x", kept, dropped, limits)
    _, _, width, height = map(float, ElementTree.fromstring(svg).get("viewBox", "").split())
    for box in ElementTree.fromstring(svg).iter("rect"):
        x, y, w, h = (float(box.get(name, "")) for name in ("x", "y", "width", "height"))
        assert min(x, y, w, h) >= -0.1
        assert x + w <= width
        assert y + h <= height


@given(st.floats(1e-6, 1e9))
def test_bins_are_round_and_not_too_many(span: float) -> None:
    assert span / bin_width(span) <= MOST_BINS


def test_curve_goes_through_every_point_and_one_point_is_a_dot() -> None:
    svg = loss_curve([(1, 2.0), (2, math.inf), (3, 1.0), (4, 1.5)])
    (line,) = ElementTree.fromstring(svg).iter("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points", "").split()]
    assert len(points) == 3
    assert points[0][1] < points[2][1] < points[1][1]
    assert "loss from 2.00 to 1.50 nats per token in 3 updates" in svg
    assert "<polyline" not in loss_curve([(1, 2.0)])
    assert "<circle" in loss_curve([(1, 2.0)])
