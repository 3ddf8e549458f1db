"""Owns drawing figures as SVG and in a line of text: the same figures give the same bytes; measures nothing."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

WIDTH = 720
"""Of every picture, px; heights follow from what is drawn."""
COLOURS = ("#8a94a6", "#1f6fb2", "#c2571a", "#3a8f4d")
"""Of the series in their order, told apart on white and in grey."""
BLOCKS = "▁▂▃▄▅▆▇█"
_BAR, _GAP, _TOP = 14, 12, 70
_LETTER = 6.9  # px, about the width of a letter at 12 px
_RELOAD = "<script>setTimeout(() => location.reload(), 2000)</script>"
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img">
<title>{title}</title>
<style>text {{ font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #222 }} .title {{ font-size: 15px }} \
.axis, .value {{ fill: #555 }} .grid {{ stroke: #ddd }} polyline {{ fill: none; stroke-width: 2 }}</style>
<rect width="{w}" height="{h}" fill="#fff"/>
<text class="title" x="16" y="26">{title}</text>
"""

Point = tuple[float, float]


def line_chart(
    title: str, axes: tuple[str, str], series: Mapping[str, Sequence[Point]], *, reload: bool = False
) -> str:
    """Returns an SVG with a line for each named series; `axes` name x and y with their units.

    Points that are no finite numbers are left out. With `reload` a browser that shows the file reads it again every
    two seconds.
    """
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    xs, ys = ([p[i] for points in finite.values() for p in points] or [0.0] for i in (0, 1))
    left, right, height, bottom = 60, WIDTH - 24, 380, 330
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

    def x(value: float) -> float:
        return _scale(value, (x_ticks[0], x_ticks[-1]), (left, right))

    def y(value: float) -> float:
        return _scale(value, (y_ticks[0], y_ticks[-1]), (bottom, _TOP))

    parts = _legend(list(finite), COLOURS[1:])
    for tick in y_ticks:
        parts += [_line(left, y(tick), right, y(tick)), _text(left - 8, y(tick) + 4, _number(tick), "end", "axis")]
    for tick in x_ticks:
        parts.append(_text(x(tick), bottom + 18, _number(tick), "middle", "axis"))
    parts += [_text((left + right) / 2, bottom + 38, axes[0], "middle", "axis"), _text(16, 52, axes[1], kind="axis")]
    for colour, points in zip(COLOURS[1:], finite.values(), strict=False):
        if len(points) == 1:
            parts.append(f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3" fill="{colour}"/>')
        elif points:
            places = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
            parts.append(f'<polyline stroke="{colour}" points="{places}"/>')
    return _svg(title, height, [*parts, _RELOAD] if reload else parts)


def bar_chart(title: str, axis: str, series: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """Returns an SVG with a group of lying bars for each row, a bar for each series; None draws none.

    Values are not below 0 and in the unit that `axis` names; each stands behind its bar with one decimal.
    """
    left, right = 40 + _LETTER * max((len(name) for name, _ in rows), default=0), WIDTH - 64
    group = _BAR * len(series) + _GAP
    bottom = _TOP + group * len(rows)
    scale = ticks(0.0, max((value or 0.0 for _, values in rows for value in values), default=0.0))
    parts = _legend(series, COLOURS)
    for tick in scale:
        x = _scale(tick, (0, scale[-1]), (left, right))
        parts += [_line(x, _TOP - 6, x, bottom), _text(x, bottom + 16, _number(tick), "middle", "axis")]
    parts.append(_text((left + right) / 2, bottom + 36, axis, "middle", "axis"))
    for at, (name, values) in enumerate(rows):
        top = _TOP + group * at
        parts.append(_text(left - 10, top + _BAR * len(series) / 2 + 4, name, "end"))
        for n, (value, colour) in enumerate(zip(values, COLOURS, strict=False)):
            if value is not None:
                width, y = _scale(value, (0, scale[-1]), (0, right - left)), top + _BAR * n
                box = f'x="{left:.1f}" y="{y}" width="{width:.1f}" height="{_BAR - 2}"'
                parts.append(f'<rect class="bar" {box} fill="{colour}"/>')
                parts.append(_text(left + width + 5, y + _BAR - 4, f"{value:.1f}", kind="value"))
    return _svg(title, bottom + 50, parts)


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Draws values in one line of at most `width` blocks, the lowest ▁, the highest █; no number, no block."""
    finite = [value for value in values if math.isfinite(value)]
    columns = min(width, len(finite))
    cuts = [len(finite) * n // columns for n in range(columns + 1)] if columns else [0]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    steps = (high - low) / (len(BLOCKS) - 1) or 1.0
    return "".join(BLOCKS[round((mean - low) / steps)] for mean in means)


def ticks(low: float, high: float) -> list[float]:
    """Returns three to seven round numbers, evenly apart, the first at or below `low`, the last at or above `high`."""
    if high <= low:
        high = low + 1
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def _scale(value: float, source: tuple[float, float], target: tuple[float, float]) -> float:
    return target[0] + (value - source[0]) / (source[1] - source[0]) * (target[1] - target[0])


def _legend(names: Sequence[str], colours: Sequence[str]) -> list[str]:
    parts, right = [], WIDTH - 24.0
    for name, colour in reversed(list(zip(names, colours, strict=False))):
        right -= _LETTER * len(name)
        parts.append(_text(right, 50, name))
        parts.append(f'<rect x="{right - 18:.1f}" y="40" width="12" height="12" fill="{colour}"/>')
        right -= 36
    return parts


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_clean(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.10g}"


def _clean(text: str) -> str:
    """Escapes a text for XML, which has no place for control characters."""
    return escape("".join(c if c.isprintable() else " " for c in text))


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return _HEAD.format(w=WIDTH, h=f"{height:.0f}", title=_clean(title)) + "\n".join(parts) + "\n</svg>\n"
