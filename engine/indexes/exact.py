"""Every vector compared with every query, in memory: the ground truth that other indexes are measured against."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import BadUserInput
from engine.filters import facet_values, matches, most_frequent, validate
from engine.ports import Filter, Hit, IndexInfo, Point, VectorQuery, Vectors


class ExactIndex:
    """A dictionary of points and a matrix product. Holds nothing on disk; a million points is about its limit."""

    def __init__(self, dimension: int) -> None:
        """`dimension`: length of every vector."""
        self._dimension = dimension
        self._points: dict[str, tuple[Vectors, dict[str, Any]]] = {}
        self._rows: tuple[list[str], Vectors] | None = None

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """All points that pass the filter, sorted by score and id, cut to the limit."""
        return [self._search(query) for query in queries]

    async def count(self, filter: Filter | None = None) -> int:
        """How many points the filter admits."""
        return len(self._admitted(filter))

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        """The points of these ids, in that order, unknown ones left out; their payloads are {} when not asked for."""
        known = ((id_, self._points[id_]) for id_ in ids if id_ in self._points)
        return [Point(id_, vector if vectors else None, held if payload else {}) for id_, (vector, held) in known]

    async def facet(
        self,
        field: str,
        filter: Filter | None = None,
        limit: int = 100,
    ) -> list[tuple[str, int]]:
        """The values of a field with their numbers of points."""
        counts: Counter[str] = Counter()
        for id_ in self._admitted(filter):
            counts.update(facet_values(field, self._points[id_][1]))
        return most_frequent(counts, limit)

    async def upsert(self, points: Sequence[Point]) -> None:
        """Writes points. Nothing is durable here: the index lives as long as its process."""
        self._points |= {point.id: (unit_vector(point, self._dimension), _as_json(point)) for point in points}
        self._rows = None

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes points; unknown ids are ignored."""
        for id_ in ids:
            self._points.pop(id_, None)
        self._rows = None

    async def ids(self, after: str = "", limit: int | None = None) -> list[str]:
        """The ids that come after one, sorted, and at most so many; every id when nothing is named."""
        return sorted(id_ for id_ in self._points if id_ > after)[:limit]

    async def optimize(self) -> None:
        """Has nothing to build."""

    async def info(self) -> IndexInfo:
        """Size and shape; no graph and no files."""
        return IndexInfo(points=len(self._points), indexed=0, dimension=self._dimension, disk_bytes=0)

    async def close(self) -> None:
        """Forgets everything."""
        self._points.clear()
        self._rows = None

    def _search(self, query: VectorQuery) -> list[Hit]:
        wanted = unit_query(query, self._dimension)
        ids, matrix = self._matrix()
        admitted = set(self._admitted(query.filter))
        scores = matrix @ wanted
        ranked: list[Hit] = []
        for row in np.argsort(-scores, kind="stable"):  # rows are in the order of ids, so equal scores stay sorted
            score = float(scores[row])
            if len(ranked) == query.limit or (query.score_threshold is not None and score < query.score_threshold):
                break
            if ids[row] in admitted:
                ranked.append(Hit(ids[row], score, self._points[ids[row]][1] if query.payload else {}))
        return ranked

    def _matrix(self) -> tuple[list[str], Vectors]:
        if self._rows is None:
            ids = sorted(self._points)
            rows = [self._points[id_][0] for id_ in ids]
            self._rows = ids, np.stack(rows) if rows else np.zeros((0, self._dimension), dtype=np.float32)
        return self._rows

    def _admitted(self, filter: Filter | None) -> list[str]:
        if filter is None:
            return list(self._points)
        validate(filter)
        return [id_ for id_, (_, payload) in self._points.items() if matches(filter, payload)]


def is_id(text: str) -> bool:
    """Whether this can be the id of a point: a UUID in its usual lower-case form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def require_id(text: str) -> None:
    """Raises `BadUserInput` when this can't be the id of a point."""
    if not is_id(text):
        raise BadUserInput(f"The id {text!r} is no UUID in its usual lower-case form.")


def unit_vector(point: Point, dimension: int) -> Vectors:
    """The point's vector at unit length, (d,). Raises `BadUserInput` when it has none or one of another length."""
    if point.vector is None:
        raise BadUserInput(f"Point {point.id} has no vector. Every point that is written needs one.")
    return _unit(point.vector, dimension, f"point {point.id}")


def unit_query(query: VectorQuery, dimension: int) -> Vectors:
    """The query's vector at unit length, (d,). Raises `BadUserInput` when it has another length."""
    return _unit(query.vector, dimension, "the query")


def _unit(vector: Vectors, dimension: int, owner: str) -> Vectors:
    if vector.shape != (dimension,):
        raise BadUserInput(
            f"The vector of {owner} has shape {vector.shape}, but this index holds vectors of shape ({dimension},). "
            "Use the model that the index was built with."
        )
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm):
        raise BadUserInput(f"The vector of {owner} holds values that are not finite.")
    return (vector / norm if norm > 0 else vector).astype(np.float32)


def _as_json(point: Point) -> dict[str, Any]:
    try:
        payload: dict[str, Any] = json.loads(json.dumps(dict(point.payload), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadUserInput(f"The payload of point {point.id} is not plain JSON: {error}.") from error
    return payload
