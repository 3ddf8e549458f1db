"""Krippendorff's alpha against the worked examples of its author, and where it is undefined."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonbuild.agreement import Difference, alpha, interval, nominal, ordinal

# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011: two observers and binary data, two
# observers and names, four observers and missing values. One string per observer, `*` for a missing value.
BINARY = ("0100000010", "1110010000")
LETTERS = ("aabbdcccedda", "babbbccceddd")
FOUR = ("123321412***", "1233224125*3", "*3332342251*", "12332441251*")


def units(observers: tuple[str, ...]) -> list[list[int]]:
    return [[ord(c) - ord("0") for c in column if c != "*"] for column in zip(*observers, strict=True)]


@pytest.mark.parametrize(
    ("observers", "difference", "published"),
    [
        (BINARY, nominal, 0.095),
        (LETTERS, nominal, 0.692),
        (FOUR, nominal, 0.743),
        (FOUR, ordinal, 0.815),
        (FOUR, interval, 0.849),
    ],
)
def test_published_examples(observers: tuple[str, ...], difference: Difference, published: float) -> None:
    assert alpha(units(observers), difference) == pytest.approx(published, abs=0.0005)


@pytest.mark.parametrize("difference", [nominal, ordinal, interval])
def test_full_agreement_is_one(difference: Difference) -> None:
    assert alpha([[1, 1], [2, 2, 2], [5, 5]], difference) == 1.0


@pytest.mark.parametrize("units", [[], [[]], [[3]], [[1], [2], [5]], [[4, 4], [4, 4, 4]], [[4, 4], [1]]])
@pytest.mark.parametrize("difference", [nominal, ordinal, interval])
def test_without_two_raters_or_without_variation_it_is_undefined(
    units: list[list[int]], difference: Difference
) -> None:
    assert alpha(units, difference) is None


def test_systematic_disagreement_is_below_zero() -> None:
    found = alpha([[1, 5], [5, 1], [1, 5], [5, 1]], ordinal)
    assert found is not None
    assert found < 0


MARKS = st.lists(st.lists(st.integers(1, 5), max_size=4), max_size=8)


@given(MARKS, st.sampled_from([nominal, ordinal, interval]), st.randoms())
def test_order_of_units_and_raters_does_not_matter(
    units: list[list[int]], difference: Difference, random: Random
) -> None:
    shuffled = [random.sample(values, len(values)) for values in random.sample(units, len(units))]
    assert alpha(shuffled, difference) == pytest.approx(alpha(units, difference))


@given(MARKS)
def test_units_of_one_rater_change_nothing(units: list[list[int]]) -> None:
    assert alpha([*units, [1], [5]], ordinal) == alpha(units, ordinal)
