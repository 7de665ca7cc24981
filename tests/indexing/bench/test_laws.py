"""Laws: fitted to points, marked beyond them, and read from a file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.errors import BadUserInput, SightlineError
from indexing.bench.laws import TERMS, Estimate, LawBook, fit, parse_number, shown

COUNTS = (1e4, 1e5, 1e6)


def test_a_law_finds_the_coefficients_that_made_its_points():
    """Points on a law give the law back, whichever of the terms it is made of, and no error is left."""
    points = [(n, d, 3.0 + 0.002 * d * math.log(n)) for n in COUNTS for d in (512.0, 1024.0)]
    law = fit(points, ("1", "ln N", "d ln N"), "ms")
    assert law.terms == pytest.approx({"1": 3.0, "ln N": 0.0, "d ln N": 0.002}, abs=1e-9)
    assert law.error == pytest.approx(0, abs=1e-9)
    assert law.ahead == pytest.approx(0, abs=1e-9)
    assert law.formula() == "3 + 0.002 d ln N ms"


def test_coefficients_are_never_negative():
    """What falls with N, by noise, becomes flat: no plan may say that more needs less."""
    law = fit([(1e4, 512, 3.0), (1e5, 512, 2.0), (1e6, 512, 1.0)], ("1", "ln N"), "ms")
    assert all(factor >= 0 for factor in law.terms.values())
    assert law.at(1e7, 512).value >= law.at(1e4, 512).value


def test_relative_fits_care_for_small_counts():
    """With values over three magnitudes, the smallest is met as well as the largest."""
    points = [(1e3, 8, 2e6), (1e4, 8, 11e6), (1e6, 8, 1001e6)]
    assert fit(points, ("1", "N"), "bytes").at(1e3, 8).value == pytest.approx(2e6, rel=0.01)


def test_one_dimension_is_taken_to_count_in_proportion():
    """Where only one dimension was measured, latency at twice the dimension is not taken for the same."""
    law = fit([(n, 512, math.log(n)) for n in COUNTS], ("1", "ln N", "d ln N"), "ms")
    assert law.at(1e5, 1024).value == pytest.approx(2 * law.at(1e5, 512).value)
    assert law.at(1e5, 1024).marks


def test_ahead_says_what_smaller_counts_would_have_told():
    """A quantity that grows faster than its terms is predicted too low, with that sign."""
    law = fit([(n, 8, n**1.5) for n in COUNTS], ("1", "N"), "s")
    assert law.ahead is not None
    assert law.ahead < -0.5
    assert fit([(1e4, 8, 1.0), (1e5, 8, 2.0)], ("1", "N"), "s").ahead is None


@pytest.mark.parametrize(
    ("count", "dimension", "marks"),
    [
        (1e4, 512, set()),
        (1e6, 1024, set()),
        (2e6, 512, {"extrapolated: measured up to 1M vectors"}),
        (1e3, 512, {"extrapolated: measured from 10k vectors"}),
        (1e5, 1280, {"extrapolated: measured up to 1.024k dimensions"}),
    ],
)
def test_marks_appear_exactly_beyond_the_measured_range(count: float, dimension: float, marks: set[str]):
    """The ends of the range are inside; beyond them the mark says how far was measured."""
    law = fit([(n, d, n * d) for n in COUNTS for d in (512, 1024)], ("N", "N d"), "bytes")
    assert law.at(count, dimension).marks == marks


def test_estimates_remember_what_they_are_made_of():
    """Sums, products, quotients, maxima and rounding rest on all that went into them."""
    first, second = Estimate(3.0, frozenset({"a"})), Estimate(2.0, frozenset({"b"}))
    for made, value in (
        (first + second, 5.0),
        (first * second, 6.0),
        (first / second, 1.5),
        ((first / second).rounded_up(), 2.0),
    ):
        assert (made.value, made.marks) == (value, {"a", "b"})
    assert (first * 2).marks == {"a"}


@pytest.mark.parametrize(
    ("text", "number"), [("100M", 1e8), ("1.5k", 1500), ("250_000", 250_000), ("7", 7), ("2G", 2e9), ("1b", 1e9)]
)
def test_numbers_are_read_as_people_write_them(text: str, number: float):
    """With a letter for the thousands, or without."""
    assert parse_number(text, "--images") == number


@pytest.mark.parametrize("text", ["", "many", "-5", "1e6", "10 images", "nan", "1.k"])
def test_other_words_are_no_numbers(text: str):
    """The argument is named, and how to write it."""
    with pytest.raises(BadUserInput, match=r"--images.*100M"):
        parse_number(text, "--images")


def test_numbers_are_shown_short():
    """Three letters, and no digits that mean nothing."""
    assert [shown(number) for number in (12, 1_500, 1e6, 2.5e9)] == ["12", "1.5k", "1M", "2.5G"]


def test_shipped_laws_can_be_read_and_written(tmp_path: Path):
    """What lies beside the module is a book of laws of known terms, and comes back from a file as it was."""
    book = LawBook.read()
    assert {term for law in book.laws.values() for term in law.terms} <= set(TERMS)
    book.write(tmp_path / "laws.json")
    assert LawBook.read(tmp_path / "laws.json") == book
    assert list(tmp_path.iterdir()) == [tmp_path / "laws.json"]


def test_unreadable_laws_are_an_error_that_says_what_to_do(tmp_path: Path):
    """A missing file and a damaged one."""
    (tmp_path / "damaged.json").write_text("{}")
    for name in ("missing.json", "damaged.json"):
        with pytest.raises(SightlineError, match="git checkout") as raised:
            LawBook.read(tmp_path / name)
        assert isinstance(raised.value.__cause__, OSError | ValidationError)
