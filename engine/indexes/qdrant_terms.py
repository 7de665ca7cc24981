"""Our nouns as Qdrant's protobuf messages, and back: filters, payloads, points, hits.

Measured for ten hits with 30 values each: 0.4 ms from bytes to hits. With the client's pydantic models it is 0.8 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from engine.errors import BadUserInput
from engine.indexes.filter_walk import walk
from engine.indexes.qdrant_stubs import pb
from engine.ports import Filter, Hit, Point, Vectors

# ---------------------------------------------------------------- filters


def translate(filter: Filter | None) -> Any:
    """The same filter as a message, or None. Raises `BadUserInput` for what no index can answer."""
    return None if filter is None else pb.Filter(must=[walk(filter, _Terms())])


class _Terms:
    """Qdrant's conditions."""

    def texts(self, field: str, values: Sequence[str]) -> Any:
        return _field(field, match=pb.Match(keywords=pb.RepeatedStrings(strings=values)))

    def integers(self, field: str, values: Sequence[int]) -> Any:
        return _field(field, match=pb.Match(integers=pb.RepeatedIntegers(integers=values)))

    def boolean(self, field: str, value: bool) -> Any:  # noqa: FBT001 - it is what the condition is about
        return _field(field, match=pb.Match(boolean=value))

    def numbers(self, field: str, gte: float | None, lte: float | None) -> Any:
        return _field(field, range=pb.Range(gte=gte, lte=lte))

    def dates(self, field: str, gte: datetime | None, lte: datetime | None) -> Any:
        within = pb.DatetimeRange()
        if gte is not None:
            within.gte.FromDatetime(gte)
        if lte is not None:
            within.lte.FromDatetime(lte)
        return _field(field, datetime_range=within)

    def every(self, conditions: Sequence[Any]) -> Any:
        return pb.Condition(filter=pb.Filter(must=conditions))

    def some(self, conditions: Sequence[Any]) -> Any:
        if not conditions:  # an empty list would always hold
            return pb.Condition(has_id=pb.HasIdCondition())
        return pb.Condition(filter=pb.Filter(should=conditions))

    def none(self, condition: Any) -> Any:
        return pb.Condition(filter=pb.Filter(must_not=[condition]))


def _field(key: str, **check: Any) -> Any:
    return pb.Condition(field=pb.FieldCondition(key=key, **check))


# ---------------------------------------------------------------- payloads


def packed(value: Any) -> Any:  # noqa: PLR0911 - one for each type of JSON
    """A JSON value as a message. Raises `TypeError` or `ValueError` for what JSON, or 64 bits, can't hold."""
    match value:
        case None:
            return pb.Value(null_value=pb.NULL_VALUE)
        case bool():
            return pb.Value(bool_value=value)
        case int():
            return pb.Value(integer_value=value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} is no number in JSON")
            return pb.Value(double_value=value)
        case str():
            return pb.Value(string_value=value)
        case Mapping():
            return pb.Value(struct_value=pb.Struct(fields=packed_fields(value)))
        case list() | tuple():
            return pb.Value(list_value=pb.ListValue(values=[packed(element) for element in value]))
        case _:
            raise TypeError(f"{type(value).__name__} is no JSON value")


def packed_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object, each as a message."""
    return {key: packed(value) for key, value in fields.items()}


def unpacked(value: Any) -> Any:
    """The JSON value of a message."""
    return _READERS[value.WhichOneof("kind")](value)


def unpacked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of an object's fields."""
    return {key: unpacked(value) for key, value in fields.items()}


_READERS: Final[dict[str | None, Callable[[Any], Any]]] = {
    "string_value": attrgetter("string_value"),
    "integer_value": attrgetter("integer_value"),
    "double_value": attrgetter("double_value"),
    "bool_value": attrgetter("bool_value"),
    "struct_value": lambda value: unpacked_fields(value.struct_value.fields),
    "list_value": lambda value: [unpacked(element) for element in value.list_value.values],
    "null_value": lambda _: None,
    None: lambda _: None,
}


# ---------------------------------------------------------------- points and hits


def point_id(id_: str) -> Any:
    """A UUID as a message."""
    return pb.PointId(uuid=id_)


def dense(vector: Vectors) -> Any:
    """One vector, (d,), as a message."""
    return pb.DenseVector(data=vector.tolist())


def packed_point(point: Point, vector: Vectors) -> Any:
    """A point with this vector, (d,). Raises `BadUserInput` when its payload is not JSON."""
    try:
        payload = packed_fields(point.payload)
        return pb.PointStruct(
            id=point_id(point.id), vectors=pb.Vectors(vector=pb.Vector(dense=dense(vector))), payload=payload
        )
    except (TypeError, ValueError) as error:
        raise BadUserInput(f"The payload of point {point.id} is not plain JSON: {error}.") from error


def unpacked_point(record: Any, *, vectors: bool) -> Point:
    """A point that was read."""
    if not vectors:
        return Point(record.id.uuid, None, unpacked_fields(record.payload))
    import numpy as np  # noqa: PLC0415 - the operator, which reads no vectors, has none

    vector = np.array(_components(record), dtype=np.float32)
    return Point(record.id.uuid, vector, unpacked_fields(record.payload))


def copied_point(record: Any) -> Any:
    """A point that was read, with vector and payload, as one to write."""
    vector = pb.Vectors(vector=pb.Vector(dense=pb.DenseVector(data=_components(record))))
    return pb.PointStruct(id=record.id, vectors=vector, payload=dict(record.payload))


def _components(record: Any) -> Any:
    output = record.vectors.vector
    return output.dense.data if output.HasField("dense") else output.data  # the second before Qdrant 1.16


def unpacked_hits(points: Sequence[Any]) -> list[Hit]:
    """The hits of one query, sorted by score and id."""
    hits = [Hit(point.id.uuid, point.score, unpacked_fields(point.payload)) for point in points]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
