"""Qdrant's messages as Edge's objects, and back. Not the product's own code, so that each checks the other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import qdrant_edge as edge

from engine.indexes.edge_filters import Boolean
from engine.indexes.qdrant_stubs import pb
from tests.support.qdrant_server.refusals import invalid, not_covered

# ---------------------------------------------------------------- ids, payloads, vectors


def id_in(message: Any) -> int | str:
    match message.WhichOneof("point_id_options"):
        case "num":
            return int(message.num)
        case "uuid":
            try:
                return str(uuid.UUID(message.uuid))
            except ValueError:
                raise invalid(f"Unable to parse UUID: {message.uuid}") from None
    raise invalid("No ID options provided")


def id_out(id_: object) -> Any:
    return pb.PointId(num=id_) if isinstance(id_, int) else pb.PointId(uuid=str(id_))


def json_in(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise invalid("Malformed payload: a value without a kind")
    if kind == "null_value":
        return None
    if kind == "struct_value":
        return payload_in(value.struct_value.fields)
    if kind == "list_value":
        return [json_in(element) for element in value.list_value.values]
    return getattr(value, kind)


def payload_in(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json_in(value) for key, value in fields.items()}


def json_out(value: Any) -> Any:
    message = pb.Value()
    if value is None:
        message.null_value = pb.NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.integer_value = value
    elif isinstance(value, float):
        message.double_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, Mapping):
        message.struct_value.SetInParent()
        for key, inner in value.items():
            message.struct_value.fields[key].CopyFrom(json_out(inner))
    else:
        message.list_value.values.extend(json_out(element) for element in value)
    return message


def payload_out(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: json_out(value) for key, value in (payload or {}).items()}


def vector_in(vectors: Any) -> list[float]:
    """The unnamed dense vector of a point."""
    match vectors.WhichOneof("vectors_options"):
        case "vector":
            kind = vectors.vector.WhichOneof("vector")
            if kind == "dense":
                return list(vectors.vector.dense.data)
            if kind is None:
                return list(vectors.vector.data)
            raise not_covered(f"{kind} vectors")
        case "vectors":
            raise not_covered("named vectors")
    raise invalid("Expected some vectors")


def vectors_out(vector: Any) -> Any:
    return pb.VectorsOutput(vector=pb.VectorOutput(dense=pb.DenseVector(data=vector)))


def wanted_payload(selector: Any) -> Any:
    """What Edge is to return of payloads."""
    match selector.WhichOneof("selector_options"):
        case "enable":
            return selector.enable
        case "include":
            return edge.PayloadSelector.Include(list(selector.include.fields))
        case "exclude":
            return edge.PayloadSelector.Exclude(list(selector.exclude.fields))
    return False


def wanted_vectors(selector: Any) -> bool:
    if selector.WhichOneof("selector_options") == "include":
        raise not_covered("named vectors")
    return bool(selector.enable)


def record_out(record: Any) -> Any:
    found = pb.RetrievedPoint(id=id_out(record.id), payload=payload_out(record.payload))
    if record.vector is not None:
        found.vectors.CopyFrom(vectors_out(record.vector))
    return found


def scored_out(point: Any) -> Any:
    found = pb.ScoredPoint(
        id=id_out(point.id), payload=payload_out(point.payload), score=point.score, version=point.version
    )
    if point.vector is not None:
        found.vectors.CopyFrom(vectors_out(point.vector))
    return found


# ---------------------------------------------------------------- filters


def filter_in(message: Any) -> Any:
    if message.HasField("min_should"):
        raise not_covered("min_should")
    return edge.Filter(
        must=[_condition(each) for each in message.must] or None,
        should=[_condition(each) for each in message.should] or None,
        must_not=[_condition(each) for each in message.must_not] or None,
    )


def optional_filter(request: Any) -> Any:
    return filter_in(request.filter) if request.HasField("filter") else None


def _condition(message: Any) -> Any:
    match message.WhichOneof("condition_one_of"):
        case "field":
            return _field(message.field)
        case "filter":
            return filter_in(message.filter)
        case "has_id":
            return edge.HasIdCondition({id_in(each) for each in message.has_id.has_id})
        case "is_empty":
            return edge.IsEmptyCondition(message.is_empty.key)
        case "is_null":
            return edge.IsNullCondition(message.is_null.key)
        case None:
            raise invalid("Malformed Condition type")
        case other:
            raise not_covered(f"{other} conditions")


def _field(message: Any) -> Any:
    checks: dict[str, Any] = {}
    if message.HasField("match"):
        checks["match"] = _match(message.match)
    if message.HasField("range"):
        checks["range"] = edge.RangeFloat(**_bounds(message.range))
    if message.HasField("datetime_range"):
        dates = {name: stamp.ToJsonString() for name, stamp in _bounds(message.datetime_range).items()}
        checks["range"] = edge.RangeDateTime(**dates)
    for name in ("geo_bounding_box", "geo_radius", "geo_polygon", "values_count", "is_empty", "is_null"):
        if message.HasField(name):
            raise not_covered(f"{name} of a field")
    if not checks:
        raise invalid("Validation error in body: [filter: At least one field condition must be specified]")
    try:
        return edge.FieldCondition(message.key, **checks)
    except (TypeError, ValueError) as error:
        raise invalid(f"Failed to parse json path: {message.key}: {error}") from error


def _bounds(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in ("lt", "gt", "gte", "lte") if message.HasField(name)}


def _match(message: Any) -> Any:  # noqa: PLR0911 - one for each kind of match
    match message.WhichOneof("match_value"):
        case "keyword":
            return edge.MatchValue(message.keyword)
        case "integer":
            return edge.MatchValue(message.integer)
        case "boolean":
            return edge.MatchValue(Boolean(message.boolean))
        case "keywords":
            return edge.MatchAny(list(message.keywords.strings))
        case "integers":
            return edge.MatchAny(list(message.integers.integers))
        case "except_keywords":
            return edge.MatchExcept(list(message.except_keywords.strings))
        case "except_integers":
            return edge.MatchExcept(list(message.except_integers.integers))
        case None:
            raise invalid("Malformed Match condition")
        case other:
            raise not_covered(f"matches of {other}")
