"""Filters in Qdrant Edge's terms: its own objects, and what its Python binding needs to be tricked into."""

from __future__ import annotations

from typing import Any, Final

import qdrant_edge as edge

from engine.filters import parse_date, validate
from engine.ports import And, Filter, Match, Not, Or, Range

_NEVER: Final = edge.Filter(must=[edge.HasIdCondition(set())])


class _Boolean:
    """A truth value that Edge takes for one.

    Edge reads a Python bool as the integer 0 or 1, which matches no stored boolean. NumPy's scalar booleans, which it
    knows by their name, are the only others it takes; so this is one by name, and unlike theirs no integer.
    """

    def __init__(self, value: bool) -> None:  # noqa: FBT001 - it is what the class wraps
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Boolean.__name__ = "bool_"
_Boolean.__module__ = "numpy"


def translate(filter: Filter | None) -> edge.Filter | None:
    """The same filter as an Edge object. Raises `BadUserInput` for what no index can answer."""
    if filter is None:
        return None
    validate(filter)
    return _tree(filter)


def _tree(node: Filter) -> edge.Filter:
    match node:
        case Match(field, values):
            return edge.Filter(should=_equals(field, values)) if values else _NEVER
        case Range("takenAt", gte, lte) if not isinstance(gte, str) and not isinstance(lte, str):
            return _NEVER  # its payload index would compare the number with microseconds since 1970
        case Range(field, gte, lte):
            return edge.Filter(must=[edge.FieldCondition(field, range=_range(gte, lte))])
        case And(filters):
            return edge.Filter(must=[_tree(child) for child in filters])
        case Or(filters):
            return edge.Filter(should=[_tree(child) for child in filters]) if filters else _NEVER
        case Not(child):
            return edge.Filter(must_not=[_tree(child)])


def _equals(field: str, values: tuple[str | int | bool, ...]) -> list[Any]:
    """One condition for the texts, one for the integers, one for each boolean: Edge's lists hold one type."""
    texts = [value for value in values if isinstance(value, str)]
    integers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    booleans: list[Any] = [_Boolean(value) for value in values if isinstance(value, bool)]
    matches: list[Any] = [edge.MatchAny(group) for group in (texts, integers) if group]
    matches += [edge.MatchValue(value) for value in booleans]
    return [edge.FieldCondition(field, match=match) for match in matches]


def _range(gte: float | str | None, lte: float | str | None) -> edge.RangeFloat | edge.RangeDateTime:
    if isinstance(gte, str) or isinstance(lte, str):
        return edge.RangeDateTime(gte=_date(gte), lte=_date(lte))
    return edge.RangeFloat(gte=gte, lte=lte)


def _date(bound: float | str | None) -> str | None:
    date = parse_date(bound) if isinstance(bound, str) else None
    return None if date is None else date.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
