"""Filters in Qdrant Edge's terms: its own objects, and what its Python binding needs to be tricked into."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import qdrant_edge as edge

from engine.indexes.filter_walk import walk
from engine.ports import Filter

_NEVER: Final = edge.Filter(must=[edge.HasIdCondition(set())])


class Boolean:
    """A truth value that Edge takes for one.

    Edge reads a Python bool as the integer 0 or 1, which matches no stored boolean. NumPy's scalar booleans, which it
    knows by their name, are the only others it takes; so this is one by name, and unlike theirs no integer.
    """

    def __init__(self, value: bool) -> None:  # noqa: FBT001 - it is what the class wraps
        self._value = value

    def __bool__(self) -> bool:
        return self._value


Boolean.__name__ = "bool_"
Boolean.__module__ = "numpy"


def translate(filter: Filter | None) -> edge.Filter | None:
    """The same filter as an Edge object. Raises `BadUserInput` for what no index can answer."""
    return None if filter is None else edge.Filter(must=[walk(filter, _Terms())])


class _Terms:
    """Edge's conditions."""

    def texts(self, field: str, values: Sequence[str]) -> Any:
        return edge.FieldCondition(field, match=edge.MatchAny(list(values)))

    def integers(self, field: str, values: Sequence[int]) -> Any:
        return edge.FieldCondition(field, match=edge.MatchAny(list(values)))

    def boolean(self, field: str, value: bool) -> Any:  # noqa: FBT001 - it is what the condition is about
        disguised: Any = Boolean(value)
        return edge.FieldCondition(field, match=edge.MatchValue(disguised))

    def numbers(self, field: str, gte: float | None, lte: float | None) -> Any:
        return edge.FieldCondition(field, range=edge.RangeFloat(gte=gte, lte=lte))

    def dates(self, field: str, gte: datetime | None, lte: datetime | None) -> Any:
        return edge.FieldCondition(field, range=edge.RangeDateTime(gte=_written(gte), lte=_written(lte)))

    def every(self, conditions: Sequence[Any]) -> Any:
        return edge.Filter(must=list(conditions))

    def some(self, conditions: Sequence[Any]) -> Any:
        return edge.Filter(should=list(conditions)) if conditions else _NEVER

    def none(self, condition: Any) -> Any:
        return edge.Filter(must_not=[condition])


def _written(date: datetime | None) -> str | None:
    return None if date is None else date.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
