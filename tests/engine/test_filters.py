"""The reference meaning of filters; that the indexes agree with it is in `indexes/test_contract.py`."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import BadUserInput
from engine.filters import EVERY, facet_values, matches, parse_date, parse_path, validate
from engine.ports import And, Filter, Match, Not, Or, Range

PAYLOAD: dict[str, Any] = {
    "category": "animal",
    "width": 640,
    "ratio": 1.5,
    "night": True,
    "takenAt": "2024-03-15T10:00:00+02:00",
    "nothing": None,
    "tags": ["new", "big"],
    "grid": [["x"], ["y"]],
    "objects": [{"kind": "dog", "count": 2}, {"kind": "cat", "colors": ["black", "white"]}],
    "taken by": "Ann",
}


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("category", ("category",)),
        ("metadata.caption", ("metadata", "caption")),
        ("a[].b[0].c", ("a", EVERY, "b", 0, "c")),
        ("a[][]", ("a", EVERY, EVERY)),
        ('"taken by".x-y', ("taken by", "x-y")),
        ('a."b.c[]"', ("a", "b.c[]")),
        ("größe", ("größe",)),
    ],
)
def test_paths_are_parsed(field: str, path: tuple[str | int, ...]):
    """Keys, quoted keys, every element and one element of a list."""
    assert parse_path(field) == path


@pytest.mark.parametrize(
    "field", ["", ".", "a.", ".a", "a..b", "a b", "[]", "a[", "a[-1]", "a[x]", 'a."b', "a$", "\ud800"]
)
def test_what_is_no_path_is_refused(field: str):
    """The message shows the field."""
    with pytest.raises(BadUserInput, match=r"field|Unicode"):
        parse_path(field)


@pytest.mark.parametrize(
    ("filter", "admitted"),
    [
        (Match("category", ("plant", "animal")), True),
        (Match("category", ("Animal",)), False),
        (Match("category", ()), False),
        (Match("width", (640,)), True),
        (Match("width", ("640",)), False),
        (Match("ratio", (1,)), False),
        (Match("night", (True,)), True),
        (Match("night", (1,)), False),
        (Match("nothing", ("None",)), False),
        (Match("absent", ("x",)), False),
        (Match("tags", ("big",)), True),
        (Match("tags[]", ("big",)), True),
        (Match("tags[0]", ("big",)), False),
        (Match("tags[7]", ("big",)), False),
        (Match("category[]", ("animal",)), False),
        (Match("grid", ("x",)), False),
        (Match("grid[]", ("x",)), True),
        (Match("objects[].kind", ("cat",)), True),
        (Match("objects.kind", ("cat",)), False),
        (Match("objects[].colors", ("white",)), True),
        (Match('"taken by"', ("Ann",)), True),
        (Range("width", 640, 640), True),
        (Range("width", gte=640.5), False),
        (Range("ratio", lte=1.5), True),
        (Range("night", gte=0), False),
        (Range("category", gte=0), False),
        (Range("objects[].count", gte=2), True),
        (Range("takenAt", "2024-03-15", "2024-03-15T08:00:00Z"), True),
        (Range("takenAt", gte="2024-03-15T08:00:00.001Z"), False),
        (Range("takenAt", gte=0), False),
        (Range("width", gte="2024-01-01"), False),
        (And(()), True),
        (Or(()), False),
        (Not(Match("absent", ("x",))), True),
        (And((Match("night", (True,)), Range("width", lte=10))), False),
        (Or((Match("night", (False,)), Range("width", gte=10))), True),
    ],
    ids=repr,
)
def test_filters_admit(filter: Filter, admitted: bool):  # noqa: FBT001
    """Every kind of filter on every kind of value."""
    assert matches(filter, PAYLOAD) is admitted


@pytest.mark.parametrize(
    "text",
    ["20240315", "2024-W11", "2024-13-01", "2024-03-15T25:00Z", "yesterday", "2024-03", "0001-01-01T00:00+10:00"],
)
def test_what_is_no_date_is_none(text: str):
    """Only RFC 3339, and only days of the calendar."""
    assert parse_date(text) is None


def test_dates_without_a_zone_are_utc():
    """A day begins at midnight UTC."""
    assert parse_date("2024-03-15") == parse_date("2024-03-15t00:00:00.000z") == parse_date("2024-03-15T01:00+01:00")


def _nested(levels: int) -> Filter:
    tree: Filter = Match("a", ("x",))
    for _ in range(levels):
        tree = Not(tree)
    return tree


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (Range("width"), "needs gte, lte"),
        (Range("width", 1, "2024-01-01"), "mixes"),
        (Range("width", "soon"), "'soon'.*no date"),
        (Range("width", float("nan")), "not finite"),
        (Match("width", (2**63,)), "too large"),
        (Match("category", ("\ud800",)), "Unicode"),
        (Match("a b", ()), "'a b'"),
        (Not(Or((And((Range("deep"),)),))), "'deep'"),
        (_nested(40), "levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_index_can_answer_is_refused(filter: Filter, message: str):
    """The message names the field and the way out, at any depth."""
    with pytest.raises(BadUserInput, match=message):
        validate(filter)


def test_facets_count_texts_whole_numbers_and_booleans():
    """Each value once; objects, fractions and null are no facet."""
    assert facet_values("objects[].colors", PAYLOAD) == {"black", "white"}
    assert facet_values("night", PAYLOAD) == {"true"}
    assert facet_values("width", PAYLOAD) == {"640"}
    assert (
        facet_values("ratio", PAYLOAD) == facet_values("nothing", PAYLOAD) == facet_values("objects", PAYLOAD) == set()
    )
