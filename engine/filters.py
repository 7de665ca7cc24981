"""What a filter means: the reference that every index has to agree with.

A field is a path into the payload, written as Qdrant writes it: `category`, `metadata.caption`,
`metadata.objects[].kind` (any element), `metadata.objects[0].kind` (the first one), `metadata."taken by"` (a key with
characters other than letters, digits, `_` and `-`). A list at the end of a path stands for its elements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from engine.errors import BadUserInput
from engine.ports import And, Filter, Match, Not, Or, Payload, Range

EVERY: Final = -1
"""The step of a path that goes into every element of a list."""

Path = tuple[str | int, ...]
"""A parsed field: keys, positions in lists, and `EVERY`."""

_KEY = re.compile(r'"(?P<quoted>[^"]*)"|(?P<plain>[\w-]+)')
_BRACKETS = re.compile(r"\[(\d*)\]")
_DATE = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)(?:[Tt ](?P<time>\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?P<zone>[Zz]|[+-]\d\d:\d\d)?)?", re.ASCII
)
_MAX_DEPTH: Final = 32


@lru_cache(maxsize=1024)
def parse_path(field: str) -> Path:
    """The steps of a field. Raises `BadUserInput` when it is not a path."""
    _check_value(field, field)
    steps: list[str | int] = []
    position = 0
    while True:
        key = _KEY.match(field, position)
        if key is None:
            raise BadUserInput(
                f"field: {field!r} is no path. Write category, metadata.name or metadata.list[].name, with quotes "
                "around a key that holds other characters."
            )
        quoted = key.group("quoted")
        steps.append(key.group("plain") if quoted is None else quoted)
        position = key.end()
        while brackets := _BRACKETS.match(field, position):
            steps.append(int(brackets.group(1)) if brackets.group(1) else EVERY)
            position = brackets.end()
        if position == len(field):
            return tuple(steps)
        if field[position] != ".":
            raise BadUserInput(
                f"field: {field!r} is no path: there is something unexpected after {field[:position]!r}."
            )
        position += 1


def parse_date(text: str) -> datetime | None:
    """An RFC 3339 date or date and time, without a zone taken as UTC; None when it is something else."""
    parts = _DATE.fullmatch(text)
    if parts is None:
        return None
    try:
        date = datetime.fromisoformat(f"{parts['day']}T{parts['time'] or '00:00'}{(parts['zone'] or 'Z').upper()}")
        return date.astimezone(UTC)
    except (ValueError, OverflowError):  # a thirteenth month; a date that leaves the calendar with its zone
        return None


def validate(filter: Filter) -> None:
    """Raises `BadUserInput` that names the field when a filter can't be answered by any index."""
    _validate(filter, _MAX_DEPTH)


def _validate(node: Filter, depth: int) -> None:
    if depth == 0:
        raise BadUserInput(f"filter: more than {_MAX_DEPTH} levels of and, or, not. Write it flatter.")
    match node:
        case Match(field, wanted):
            parse_path(field)
            for value in wanted:
                _check_value(field, value)
        case Range(field, gte, lte):
            parse_path(field)
            _validate_bounds(field, [bound for bound in (gte, lte) if bound is not None])
        case And(filters) | Or(filters):
            for child in filters:
                _validate(child, depth - 1)
        case Not(child):
            _validate(child, depth - 1)


def _check_value(field: str, value: str | int) -> None:
    """Refuses what can't be stored, and so can't be found either."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BadUserInput(f"filter: {value} is too large a number for {field!r}. Use one of 64 bits.")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadUserInput(f"filter: {value!r} for {field!r} is not valid Unicode. Send UTF-8.")


def _validate_bounds(field: str, bounds: list[float | str]) -> None:
    if not bounds:
        raise BadUserInput(f"filter: the range of {field!r} needs gte, lte or both.")
    dates = [bound for bound in bounds if isinstance(bound, str)]
    if dates and len(dates) < len(bounds):
        raise BadUserInput(f"filter: the range of {field!r} mixes a number and a date. Use one kind for both.")
    if any(isinstance(bound, float) and not math.isfinite(bound) for bound in bounds):
        raise BadUserInput(f"filter: the range of {field!r} has a bound that is not finite. Leave it out instead.")
    for date in dates:
        if parse_date(date) is None:
            raise BadUserInput(
                f"filter: {date!r} in the range of {field!r} is no date. Write 2024-05-31 or 2024-05-31T12:00:00Z."
            )


def values(path: Path, payload: Payload) -> Iterator[Any]:
    """What lies at a path: no value, one, or several where the path or its last value goes through a list."""
    for leaf in _leaves(path, payload):
        if isinstance(leaf, list | tuple):
            yield from leaf
        else:
            yield leaf


def _leaves(path: Path, value: Any) -> Iterator[Any]:
    if not path:
        yield value
        return
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        if isinstance(value, Mapping) and step in value:
            yield from _leaves(rest, value[step])
    elif isinstance(value, list | tuple):
        elements: Iterable[Any] = value if step == EVERY else value[step : step + 1]
        for element in elements:
            yield from _leaves(rest, element)


def matches(filter: Filter, payload: Payload) -> bool:
    """Whether a payload passes. Types are never converted: 1, 1.0, true and "1" are four different values to `Match`.

    Raises `BadUserInput` for a field that is no path.
    """
    match filter:
        case Match(field, wanted):
            exact = {(type(value), value) for value in wanted}
            return any(_hashable(value) in exact for value in values(parse_path(field), payload))
        case Range(field, gte, lte):
            return any(_within(value, gte, lte) for value in values(parse_path(field), payload))
        case And(filters):
            return all(matches(child, payload) for child in filters)
        case Or(filters):
            return any(matches(child, payload) for child in filters)
        case Not(child):
            return not matches(child, payload)


def _hashable(value: Any) -> tuple[type, Any] | None:
    return (type(value), value) if isinstance(value, str | int | bool) else None


def _within(value: Any, gte: float | str | None, lte: float | str | None) -> bool:
    if isinstance(gte, str) or isinstance(lte, str):
        date = parse_date(value) if isinstance(value, str) else None
        low = parse_date(gte) if isinstance(gte, str) else None
        high = parse_date(lte) if isinstance(lte, str) else None
        return date is not None and (low is None or date >= low) and (high is None or date <= high)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (gte is None or value >= gte) and (lte is None or value <= lte)


def facet_values(field: str, payload: Payload) -> set[str]:
    """The values that a facet counts a payload under: texts, whole numbers, and booleans as `true` and `false`."""
    found: set[str] = set()
    for value in values(parse_path(field), payload):
        if isinstance(value, bool):
            found.add("true" if value else "false")
        elif isinstance(value, str | int):
            found.add(str(value))
    return found


def most_frequent(counts: Mapping[str, int], limit: int) -> list[tuple[str, int]]:
    """A facet's values with how many points have each: the most frequent first, and by value where they are equal."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]


def canonical(node: Filter | None) -> Any:
    """A filter as plain lists, in which different filters differ."""
    match node:
        case None:
            return None
        case Match(path, values):
            return ["match", path, values]
        case Range(path, gte, lte):
            return ["range", path, gte, lte]
        case And(filters):
            return ["and", *map(canonical, filters)]
        case Or(filters):
            return ["or", *map(canonical, filters)]
        case Not(child):
            return ["not", canonical(child)]


def from_canonical(data: Any) -> Filter | None:
    """The filter that `canonical` made plain lists of."""
    match data:
        case None:
            return None
        case "match", path, values:
            return Match(path, tuple(values))
        case "range", path, gte, lte:
            return Range(path, gte, lte)
        case "and" | "or" as kind, *rest:
            children = tuple(child for child in map(from_canonical, rest) if child is not None)
            return And(children) if kind == "and" else Or(children)
        case "not", child:
            inner = from_canonical(child)
            if inner is not None:
                return Not(inner)
    raise ValueError(f"{data!r} is no filter")
