"""Owns the small pictures of the report's page, SVG that takes its colours from the page; measures nothing."""

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from gonbuild.plots import Point, ticks

WIDTH, HEIGHT = 440, 190
"""Of a picture in its own units; the page scales it."""
MOST_BINS = 28
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 420, 10, 146


def histogram(label: str, kept: Sequence[float], dropped: Sequence[float], limits: Sequence[float]) -> str:
    """Draws how many of the values lie where: those that were kept below, those that were dropped on top of them.

    `limits` are marked by dashed lines; `label` names the axis with its unit. Without values there is no picture.
    """
    values = [*kept, *dropped]
    if not values:
        return ""
    width = bin_width(max([*values, *limits]) - min([*values, *limits]))

    def bin_of(value: float) -> int:
        return math.floor(value / width + 1e-6)  # what lies on an edge is rounded, and belongs to the right

    first, last = bin_of(min([*values, *limits])), bin_of(max([*values, *limits]))
    across = (first * width, (last + 1) * width)
    below, above = (Counter(map(bin_of, told)) for told in (kept, dropped))
    scale = ticks(0.0, float(max((below + above).values())))
    step = (_RIGHT - _LEFT) / (last + 1 - first)
    parts = _frame(scale, across, label)
    for n in range(first, last + 1):
        x, base = _LEFT + (n - first) * step, 0.0
        for kind, count in (("kept", below[n]), ("dropped", above[n])):
            top, bottom = (_y(base + count, scale), _y(base, scale))
            if count:
                parts.append(_box(kind, x + 0.5, top, step - 1, bottom - top))
            base += count
    parts += [
        f'<line class="limit" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{_BOTTOM}"/>'
        for x in (_x(limit, across) for limit in limits)
    ]
    return _svg(f"{label}: {len(kept)} kept, {len(dropped)} dropped, from {min(values):g} to {max(values):g}", parts)


def loss_curve(points: Sequence[Point]) -> str:
    """Draws the loss of each update, which are finite, as a line; a single one is a dot."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    if not finite:
        return ""
    scale = ticks(min(y for _, y in finite), max(y for _, y in finite))
    across = (finite[0][0], max(finite[-1][0], finite[0][0] + 1))
    places = [(_x(x, across), _y(y, scale)) for x, y in finite]
    parts = _frame(scale, across, "updates")
    if len(places) > 1:
        parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
    last = places[-1]
    parts.append(f'<circle class="kept" cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="3"/>')
    return _svg(f"loss from {finite[0][1]:.2f} to {finite[-1][1]:.2f} nats per token in {len(finite)} updates", parts)


def bin_width(span: float) -> float:
    """Returns the smallest 1, 2 or 5 times a power of ten that makes at most MOST_BINS bins of a span; 1 for none."""
    if span < 1e-9:
        return 1.0
    rough = span / (MOST_BINS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _frame(scale: Sequence[float], across: tuple[float, float], label: str) -> list[str]:
    parts = []
    for tick in scale:
        y = _y(tick, scale)
        parts += [f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_RIGHT}" y2="{y:.1f}"/>']
        parts += [_text(_LEFT - 6, y + 4, f"{tick:g}", "end")]
    parts += [_text(_x(tick, across), _BOTTOM + 17, f"{tick:g}", "middle") for tick in _inside(*across)]
    return [*parts, _text((_LEFT + _RIGHT) / 2, _BOTTOM + 36, label, "middle")]


def _inside(low: float, high: float) -> list[float]:
    """Returns round numbers between two others, three of them or more."""
    first, second, *_ = ticks(low, high)
    found = _multiples(second - first, low, high)
    return found if len(found) > 2 else _multiples((second - first) / 2, low, high)


def _multiples(step: float, low: float, high: float) -> list[float]:
    return [round(n * step, 10) for n in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]


def _x(value: float, across: tuple[float, float]) -> float:
    return _LEFT + (value - across[0]) / (across[1] - across[0]) * (_RIGHT - _LEFT)


def _y(value: float, scale: Sequence[float]) -> float:
    return _BOTTOM - (value - scale[0]) / (scale[-1] - scale[0]) * (_BOTTOM - _TOP)


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(label: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return "\n".join([head, *parts, "</svg>"])
