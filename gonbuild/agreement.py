"""Owns how far people who rate the same things agree: Krippendorff's alpha; knows no story and no reviewer."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

Totals = Mapping[float, int]
Difference = Callable[[float, float, Totals], float]
"""Squared difference of two values, where `totals` counts how often each value was given in pairable units."""


def alpha(units: Iterable[Sequence[float]], difference: Difference) -> float | None:
    """Returns Krippendorff's alpha of the values that each unit was given, one by each of its raters.

    1 is agreement in all, 0 what chance would give, less than 0 is worse than chance. Units with fewer than two values
    say nothing and are left out. None where alpha is undefined: no unit has two values, or all values are the same.
    Source: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011.
    """
    pairable = [values for values in units if len(values) > 1]
    totals = Counter(value for values in pairable for value in values)
    n = totals.total()
    observed = sum(
        difference(a, b, totals) / (len(values) - 1)
        for values in pairable
        for at, a in enumerate(values)
        for other, b in enumerate(values)
        if at != other
    )
    expected = sum(totals[a] * totals[b] * difference(a, b, totals) for a in totals for b in totals)
    return 1.0 - (n - 1) * observed / expected if expected else None


def nominal(a: float, b: float, _totals: Totals) -> float:
    """Tells names apart."""
    return float(a != b)


def ordinal(a: float, b: float, totals: Totals) -> float:
    """Measures by how many of the values given lie between two ranks; for marks from poor to very good."""
    low, high = min(a, b), max(a, b)
    between = sum(count for value, count in totals.items() if low <= value <= high)
    return (between - (totals[a] + totals[b]) / 2) ** 2


def interval(a: float, b: float, _totals: Totals) -> float:
    """Measures numbers by their distance."""
    return (a - b) ** 2
