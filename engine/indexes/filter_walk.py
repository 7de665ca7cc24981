"""Our filters in an engine's terms: one walk over the tree for all of them, and a builder for each engine's leaves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from engine.filters import parse_date, validate
from engine.ports import And, Filter, Match, Not, Or, Range

C = TypeVar("C")


class Terms(Protocol[C]):
    """What an engine calls its conditions. A condition may hold others; `some` of none never holds."""

    def texts(self, field: str, values: Sequence[str]) -> C:
        """The field is one of these texts."""
        ...

    def integers(self, field: str, values: Sequence[int]) -> C:
        """The field is one of these integers."""
        ...

    def boolean(self, field: str, value: bool) -> C:  # noqa: FBT001 - it is what the condition is about
        """The field is this truth value."""
        ...

    def numbers(self, field: str, gte: float | None, lte: float | None) -> C:
        """The field is a number between these, inclusive."""
        ...

    def dates(self, field: str, gte: datetime | None, lte: datetime | None) -> C:
        """The field is a date between these, inclusive."""
        ...

    def every(self, conditions: Sequence[C]) -> C:
        """All of them hold."""
        ...

    def some(self, conditions: Sequence[C]) -> C:
        """At least one of them holds."""
        ...

    def none(self, condition: C) -> C:
        """It does not hold."""
        ...


def walk(filter: Filter, terms: Terms[C]) -> C:
    """The same filter as one condition. Raises `BadUserInput` for what no index can answer."""
    validate(filter)
    return _tree(filter, terms)


def _tree(node: Filter, terms: Terms[C]) -> C:  # noqa: PLR0911 - one for each kind of node
    match node:
        case Match(field, values):
            return _equals(field, values, terms)
        case Range("takenAt", gte, lte) if not isinstance(gte, str) and not isinstance(lte, str):
            return terms.some([])  # its payload index would compare the number with microseconds since 1970
        case Range(field, gte, lte):
            if isinstance(gte, str) or isinstance(lte, str):
                return terms.dates(field, _date(gte), _date(lte))
            return terms.numbers(field, gte, lte)
        case And(filters):
            return terms.every([_tree(child, terms) for child in filters])
        case Or(filters):
            return terms.some([_tree(child, terms) for child in filters])
        case Not(child):
            return terms.none(_tree(child, terms))


def _equals(field: str, values: Sequence[str | int | bool], terms: Terms[C]) -> C:
    """One condition for the texts, one for the integers, one for each boolean: their lists hold one type."""
    texts = [value for value in values if isinstance(value, str)]
    integers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    conditions = [terms.boolean(field, value) for value in values if isinstance(value, bool)]
    if texts:
        conditions.append(terms.texts(field, texts))
    if integers:
        conditions.append(terms.integers(field, integers))
    return conditions[0] if len(conditions) == 1 else terms.some(conditions)


def _date(bound: float | str | None) -> datetime | None:
    return parse_date(bound) if isinstance(bound, str) else None
