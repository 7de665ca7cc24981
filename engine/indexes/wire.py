"""What an index process and its parent say to each other: frames of JSON and raw float32, answered by number.

    header   the lengths in bytes of the two parts that follow, little-endian
    JSON     a request [number, method, arguments…], or an answer [number, "ok", result…] or [number, error, message]
    floats   the vectors that belong to it, one after the other

Nothing here is a pickle: a frame can only hold data. Errors travel by the name of their class.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson

from engine import errors
from engine.errors import BadUserInput, IndexUnavailable, SightlineError
from engine.filters import canonical, from_canonical
from engine.ports import Hit, Point, VectorQuery, Vectors

HEADER: Final = struct.Struct("<QQ")

Frame = tuple[list[Any], bytes]
"""The JSON and the floats of a frame."""

_ERRORS: Final = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SightlineError)
}


def pack(content: list[Any], floats: bytes = b"") -> bytes:
    """One frame. Raises `BadUserInput` for what JSON can't hold."""
    try:
        text = orjson.dumps(content)
    except orjson.JSONEncodeError as error:
        raise BadUserInput(f"The request holds what JSON can't: {error}.") from error
    return b"".join((HEADER.pack(len(text), len(floats)), text, floats))


class Unpacker:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, received: bytes) -> list[Frame]:
        """The frames that are complete now."""
        self._bytes += received
        frames: list[Frame] = []
        start = 0
        while len(self._bytes) - start >= HEADER.size:
            text, floats = HEADER.unpack_from(self._bytes, start)
            middle = start + HEADER.size + text
            if len(self._bytes) < middle + floats:
                break
            with memoryview(self._bytes) as view:
                frames.append((orjson.loads(view[start + HEADER.size : middle]), bytes(view[middle : middle + floats])))
            start = middle + floats
        del self._bytes[:start]
        return frames


# ---------------------------------------------------------------- queries and hits


def pack_queries(queries: Sequence[VectorQuery]) -> tuple[list[Any], bytes]:
    """Queries whose vectors all have one length, as JSON and floats."""
    rows = [[q.limit, canonical(q.filter), q.score_threshold, q.exact, q.payload] for q in queries]
    return rows, b"".join(np.ascontiguousarray(query.vector, dtype=np.float32).tobytes() for query in queries)


def unpack_queries(rows: list[Any], floats: bytes) -> list[VectorQuery]:
    """The queries that were packed."""
    return [
        VectorQuery(vector, limit, from_canonical(admitted), threshold, exact, payload)
        for vector, (limit, admitted, threshold, exact, payload) in zip(_rows(floats, len(rows)), rows, strict=True)
    ]


def pack_hits(answers: Sequence[Sequence[Hit]]) -> list[Any]:
    """Lists of hits as JSON."""
    return [[(hit.id, hit.score, hit.payload) for hit in hits] for hits in answers]


def unpack_hits(answers: list[Any]) -> list[list[Hit]]:
    """The lists of hits that were packed."""
    return [[Hit(id_, score, payload) for id_, score, payload in hits] for hits in answers]


# ---------------------------------------------------------------- points


def pack_points(points: Sequence[Point]) -> tuple[list[Any], bytes]:
    """Points as JSON and floats; all of them have a vector, or none."""
    rows = [(point.id, point.payload) for point in points]
    return rows, b"".join(point.vector.tobytes() for point in points if point.vector is not None)


def unpack_points(rows: list[Any], floats: bytes) -> list[Point]:
    """The points that were packed."""
    if not floats:
        return [Point(id_, None, payload) for id_, payload in rows]
    return [Point(id_, row, payload) for row, (id_, payload) in zip(_rows(floats, len(rows)), rows, strict=True)]


# ---------------------------------------------------------------- errors


def pack_error(error: BaseException) -> list[str]:
    """An error's class and message."""
    return [type(error).__name__ if isinstance(error, SightlineError) else "IndexUnavailable", str(error)]


def unpack_error(name: str, message: str) -> SightlineError:
    """The same error again."""
    return _ERRORS.get(name, IndexUnavailable)(message)


def _rows(floats: bytes, count: int) -> Vectors:
    values = np.frombuffer(floats, dtype=np.float32)
    return values.reshape(count, -1) if count else values.reshape(0, 0)
