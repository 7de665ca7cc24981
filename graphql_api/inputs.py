"""What clients send: the input types of the schema, and how each becomes a request of the engine."""

from __future__ import annotations

import datetime as dt
from typing import Final

import strawberry
from strawberry.scalars import JSON

from engine.ports import And, Filter, Match, Not, Or, Range
from engine.requests import Term
from graphql_api.errors import argument

MAX_CONDITIONS: Final = 200


@strawberry.input(description="Whole numbers from `gte` to `lte`, both included; leave one out for an open end.")
class IntRange:
    """Becomes a `Range` of integers."""

    gte: int | None = strawberry.field(default=None, description="The least value.")
    lte: int | None = strawberry.field(default=None, description="The greatest value.")


@strawberry.input(description="Moments from `gte` to `lte`, both included; leave one out for an open end.")
class DateTimeRange:
    """Becomes a `Range` of RFC 3339 dates."""

    gte: dt.datetime | None = strawberry.field(default=None, description="The earliest moment.")
    lte: dt.datetime | None = strawberry.field(default=None, description="The latest moment.")


@strawberry.input(
    description='A condition on what the source says about its images, such as `{path: "objects[].kind", in: ["dog"]}`.'
)
class MetadataCondition:
    """Becomes a `Match` or a `Range` on a path under `metadata`."""

    path: str = strawberry.field(description="Where the value lies; `[]` after a key means any item of that list.")
    in_: list[JSON] | None = strawberry.field(
        name="in", default=None, description="The value is one of these strings, whole numbers or booleans."
    )
    gte: JSON | None = strawberry.field(
        default=None, description="The value, a number or RFC 3339 date, is at least this."
    )
    lte: JSON | None = strawberry.field(
        default=None, description="The value, a number or RFC 3339 date, is at most this."
    )


@strawberry.input(description="Which images may be answered. All conditions given must hold.")
class ImageFilter:
    """Becomes a `Filter`."""

    category: list[str] | None = strawberry.field(default=None, description="The category is one of these.")
    file_name: list[str] | None = strawberry.field(default=None, description="The file's name is one of these.")
    width: IntRange | None = strawberry.field(default=None, description="Width in pixels.")
    height: IntRange | None = strawberry.field(default=None, description="Height in pixels.")
    taken_at: DateTimeRange | None = strawberry.field(default=None, description="When the picture was taken.")
    metadata: list[MetadataCondition] | None = strawberry.field(
        default=None, description="Conditions on the source's own data."
    )
    and_: list[ImageFilter] | None = strawberry.field(name="and", default=None, description="All of these hold.")
    or_: list[ImageFilter] | None = strawberry.field(
        name="or", default=None, description="At least one of these holds."
    )
    not_: ImageFilter | None = strawberry.field(name="not", default=None, description="This does not hold.")


@strawberry.input(
    one_of=True, description="What a term looks like: exactly one of words, an indexed image, or a vector."
)
class TermSource:
    """One of its fields is set; the schema sees to it."""

    text: str | None = strawberry.field(default=strawberry.UNSET, description="Words, 1 to 512 characters.")
    image_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="An image of the same index, by its id."
    )
    vector: list[float] | None = strawberry.field(
        default=strawberry.UNSET,
        description="An embedding of the index's own model; its length is the model's dimension.",
    )


@strawberry.input(description="One part of a search that is made of several.")
class SearchTerm:
    """Becomes a `Term`."""

    source: TermSource = strawberry.field(description="What to look for.")
    weight: float = strawberry.field(
        default=1.0, description="How much it counts beside the other terms; negative moves away from it."
    )


@strawberry.input(description="A field whose values are counted.")
class FacetField:
    """A path and how many of its values to answer."""

    path: str = strawberry.field(
        description='"category", "fileName", or a path into the source\'s own data such as "metadata.objects[].kind".'
    )
    first: int = strawberry.field(default=20, description="How many values, 1 to 100, the most frequent ones.")


def terms_of(terms: list[SearchTerm] | None) -> tuple[Term, ...]:
    """The engine's terms."""
    return tuple(_term(term) for term in terms or ())


def _term(term: SearchTerm) -> Term:
    """The schema leaves what was not sent UNSET, and lets nothing be null."""
    given = {name: value for name, value in vars(term.source).items() if value is not strawberry.UNSET}
    if "vector" in given:
        given["vector"] = tuple(given["vector"])
    return Term(**given, weight=term.weight)


def filter_of(given: ImageFilter | None) -> Filter | None:
    """The engine's filter; None when nothing is asked for. Raises `BadUserInput` for conditions that make no sense."""
    if given is None:
        return None
    filters = _conditions(given)
    if _size(And(filters)) > MAX_CONDITIONS:
        raise argument(
            "filter", f"it has more than {MAX_CONDITIONS} conditions. Use `in` for many values of one field."
        )
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else And(filters)


def _conditions(given: ImageFilter) -> tuple[Filter, ...]:
    found: list[Filter] = []
    for field, values in (("category", given.category), ("fileName", given.file_name)):
        if values is not None:
            found.append(Match(field, tuple(values)))
    for field, bounds in (("width", given.width), ("height", given.height)):
        if bounds is not None:
            found.append(Range(field, bounds.gte, bounds.lte))
    if given.taken_at is not None:
        found.append(Range("takenAt", _moment(given.taken_at.gte), _moment(given.taken_at.lte)))
    found += [_metadata(condition) for condition in given.metadata or ()]
    found += [And(_conditions(part)) for part in given.and_ or ()]
    if given.or_ is not None:
        found.append(Or(tuple(And(_conditions(part)) for part in given.or_)))
    if given.not_ is not None:
        found.append(Not(And(_conditions(given.not_))))
    return tuple(found)


def _size(given: Filter) -> int:
    match given:
        case And(filters) | Or(filters):
            return 1 + sum(_size(part) for part in filters)
        case Not(inner):
            return 1 + _size(inner)
        case _:
            return 1


def _moment(value: dt.datetime | None) -> str | None:
    """RFC 3339; a moment without a zone is taken as UTC."""
    if value is None:
        return None
    return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat()


def _metadata(condition: MetadataCondition) -> Filter:
    if not condition.path:
        raise argument("filter.metadata.path", "it is empty. Name a key, such as 'objects[].kind'.")
    field = f"metadata.{condition.path}"
    bounded = condition.gte is not None or condition.lte is not None
    if condition.in_ is not None and not bounded:
        return Match(field, tuple(_scalar(value) for value in condition.in_))
    if bounded and condition.in_ is None:
        return Range(field, _bound(condition.gte), _bound(condition.lte))
    raise argument("filter.metadata", f"give either `in` or `gte` and `lte` for '{condition.path}'.")


def _scalar(value: object) -> str | int | bool:
    if isinstance(value, str | int | bool):
        return value
    raise argument(
        "filter.metadata.in", "values may be strings, whole numbers or booleans. Use `gte` and `lte` for others."
    )


def _bound(value: object) -> float | str | None:
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    raise argument("filter.metadata", "`gte` and `lte` may be numbers or RFC 3339 dates.")
