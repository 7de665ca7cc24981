"""Qdrant Edge: an HNSW index inside this process, its files in a folder.

What shapes this file, measured: Edge holds Python's GIL while it works (a query takes 0.2 to 2 ms, `optimize` minutes
at a million points), so calls run one after another in a thread of their own, and large builds belong in another
process. Only one process can open a shard. Edge can't facet a field without a payload index, so those are counted here.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import qdrant_edge as edge

from engine.errors import BadUserInput, IndexCorrupt, IndexUnavailable, SightlineError
from engine.filters import facet_values, parse_date, parse_path, validate
from engine.indexes.exact import unit_query, unit_vector
from engine.ports import And, Filter, Hit, IndexInfo, Match, Not, Or, Point, Range, VectorQuery
from engine.settings import Settings

T = TypeVar("T")

_CONFIG: Final = "edge_config.json"
_PAYLOAD_INDEXES: Final = {
    "category": edge.PayloadSchemaType.Keyword,
    "width": edge.PayloadSchemaType.Integer,
    "height": edge.PayloadSchemaType.Integer,
    "takenAt": edge.PayloadSchemaType.Datetime,
}
_GRAPH_FROM_KB: Final = 1  # a graph for every segment above 1 kB: Edge's default leaves 10 MB unindexed
_FULL_SCAN_KB: Final = 10_000  # filters that leave less than 10 MB of vectors are answered by comparing them all
_OVERSAMPLING: Final = 2.0  # rescoring twice the limit: recall@10 of int8 0.94 -> 0.999 on 10,000 x 512, at no cost
_PAGE: Final = 4096  # points read at once when all are read
_QUERIES_AT_ONCE: Final = 16  # between groups of queries the GIL is free for the event loop
_FACET_VALUES: Final = 10_000  # asked of Edge, so that values of equal count can be sorted before the cut


class EdgeIndex:
    """One Edge shard. Make it with `create` or `open`; all methods may be called from any event loop."""

    def __init__(
        self, shard: edge.EdgeShard, path: Path, dimension: int, thread: ThreadPoolExecutor, settings: Settings
    ) -> None:
        """Takes over an open shard and the thread that it lives in."""
        self._shard = shard
        self._path = path
        self._dimension = dimension
        self._thread = thread
        self._settings = settings
        self._closed = False

    @classmethod
    def create(cls, path: Path, dimension: int, settings: Settings) -> EdgeIndex:
        """A new, empty index of (dimension,) vectors in the folder `path`, which is made.

        Raises `IndexUnavailable` when the folder already holds an index.
        """
        if (path / _CONFIG).exists():
            raise IndexUnavailable(f"{path} already holds an index. Open it, or choose another folder.")
        path.mkdir(parents=True, exist_ok=True)
        config = _config(settings, dimension)

        def make() -> edge.EdgeShard:
            shard = edge.EdgeShard.create(str(path), config)
            for field, schema in _PAYLOAD_INDEXES.items():
                shard.update(edge.UpdateOperation.create_field_index(field, schema))
            shard.flush()
            return shard

        thread = _thread()
        return cls(_opened(thread, path, make), path, dimension, thread, settings)

    @classmethod
    def open(cls, path: Path, settings: Settings) -> EdgeIndex:
        """The index in the folder `path`. Settings that changed since it was built apply from the next `optimize`.

        Raises `IndexUnavailable` when another process has it open, `IndexCorrupt` when its files can't be read.
        """
        try:
            stored = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
            dimension = int(stored["vectors"][""]["size"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _corrupt(path, error) from error
        if not any(path.glob("segments/*/segment.json")):
            raise _corrupt(path, "it has no segments")
        config = _config(settings, dimension)
        thread = _thread()
        shard = _opened(thread, path, lambda: edge.EdgeShard.load(str(path), config))
        return cls(shard, path, dimension, thread, settings)

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """One sorted list of hits per query. HNSW candidates are at least the limit, and rescored in full precision."""
        requests = [self._request(query) for query in queries]
        answers: list[list[Hit]] = []
        for start in range(0, len(requests), _QUERIES_AT_ONCE):
            batch = edge.QueryBatchRequest(requests[start : start + _QUERIES_AT_ONCE])
            answers += await self._call(partial(self._query, batch))
        return answers

    async def count(self, filter: Filter | None = None) -> int:
        """How many points the filter admits, exactly."""
        request = edge.CountRequest(exact=True, filter=_translate(filter))
        return await self._call(lambda: self._shard.count(request))

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False) -> list[Point]:
        """The points of these ids, in that order, unknown ones left out."""
        known: list[Any] = [id_ for id_ in ids if _is_id(id_)]

        def read() -> dict[str, Point]:
            records = self._shard.retrieve(known, True, vectors)
            return {str(record.id): _point(record, vectors=vectors) for record in records}

        found = await self._call(read)
        return [found[id_] for id_ in known if id_ in found]

    async def facet(
        self,
        field: str,
        filter: Filter | None = None,
        limit: int = 100,
    ) -> list[tuple[str, int]]:
        """The values of a field with their numbers of points. Fast for category, a full read for other fields."""
        key, *_ = parse_path(field)
        translated = _translate(filter)

        def indexed() -> Counter[str]:
            request = edge.FacetRequest(field, limit=max(limit, _FACET_VALUES), exact=True, filter=translated)
            return Counter({str(hit.value): hit.count for hit in self._shard.facet(request).hits})

        def counted() -> Counter[str]:
            counts: Counter[str] = Counter()
            for record in self._scroll(translated, [f'"{key}"']):
                counts.update(facet_values(field, record.payload or {}))
            return counts

        counts = await self._call(indexed if field == "category" else counted)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]

    async def upsert(self, points: Sequence[Point]) -> None:
        """Writes points and flushes them; within one call the last of equal ids wins.

        Raises `BadUserInput` for a vector of another length, a payload that is not JSON, or an id that is no UUID.
        """
        latest = {point.id: self._encoded(point) for point in points}
        if latest:
            await self._update(edge.UpdateOperation.upsert_points(list(latest.values())))

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes points; unknown ids are ignored."""
        known: list[Any] = [id_ for id_ in ids if _is_id(id_)]
        if known:
            await self._update(edge.UpdateOperation.delete_points(known))

    async def ids(self) -> list[str]:
        """Every id, sorted."""
        return await self._call(lambda: sorted(str(record.id) for record in self._scroll(None, [])))

    async def optimize(self) -> None:
        """Builds graph and quantized vectors. Blocks all of this process's Python for as long as it takes."""

        def build() -> None:
            self._shard.optimize()
            self._shard.flush()

        await self._call(build)

    async def info(self) -> IndexInfo:
        """Size and shape; `disk_bytes` is what the files occupy, less than their length where they are sparse."""

        def read() -> IndexInfo:
            info = self._shard.info()
            occupied = sum(file.stat().st_blocks * 512 for file in self._path.rglob("*") if file.is_file())
            return IndexInfo(info.points_count, info.indexed_vectors_count, self._dimension, occupied)

        return await self._call(read)

    async def close(self) -> None:
        """Flushes and lets go of the files; harmless when done twice."""
        if self._closed:
            return

        def close() -> None:
            self._shard.flush()
            self._shard.close()

        try:
            await self._call(close)
        finally:
            self._closed = True
            self._thread.shutdown(wait=False)

    async def _update(self, operation: edge.UpdateOperation) -> None:
        def write() -> None:
            self._shard.update(operation)
            self._shard.flush()

        await self._call(write)

    async def _call(self, work: Callable[[], T]) -> T:
        """Runs blocking work in the shard's thread; whatever Edge raises becomes `IndexUnavailable`."""
        if self._closed:
            raise IndexUnavailable(f"The index at {self._path} is closed. Open it again.")
        return await asyncio.wrap_future(self._thread.submit(_guarded, work, self._path))

    def _query(self, batch: edge.QueryBatchRequest) -> list[list[Hit]]:
        return [_ranked(points) for points in self._shard.query_batch(batch)]

    def _request(self, query: VectorQuery) -> edge.QueryRequest:
        vector: Any = unit_query(query, self._dimension)
        return edge.QueryRequest(
            limit=query.limit,
            query=edge.Query.Nearest(vector),
            filter=_translate(query.filter),
            score_threshold=query.score_threshold,
            with_payload=True,
            params=edge.SearchParams(
                hnsw_ef=max(self._settings.search_ef, query.limit),
                exact=query.exact,
                quantization=edge.QuantizationSearchParams(
                    ignore=query.exact, rescore=True, oversampling=_OVERSAMPLING
                ),
            ),
        )

    def _encoded(self, point: Point) -> edge.Point:
        vector: Any = unit_vector(point, self._dimension)
        if not _is_id(point.id):
            raise BadUserInput(f"The id {point.id!r} is no UUID in its usual lower-case form.")
        try:
            return edge.Point(point.id, vector, dict(point.payload))
        except (TypeError, ValueError) as error:
            raise BadUserInput(f"The payload of point {point.id} is not plain JSON: {error}.") from error

    def _scroll(self, filter: edge.Filter | None, fields: list[str]) -> Iterator[edge.Record]:
        """All records that pass, with these payload fields only; runs in the shard's thread."""
        offset = None
        while True:
            request = edge.ScrollRequest(offset=offset, limit=_PAGE, filter=filter, with_payload=fields or False)
            records, offset = self._shard.scroll(request)
            yield from records
            if offset is None:
                return


def _config(settings: Settings, dimension: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine, memory=edge.Memory.Cached),
        hnsw_config=edge.HnswIndexConfig(
            m=settings.search_hnsw_m,
            ef_construct=settings.search_ef_construct,
            full_scan_threshold=_FULL_SCAN_KB,
        ),
        quantization_config=edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8, quantile=settings.search_quantile, memory=edge.Memory.Pinned
        ),
        payload_memory=edge.Memory.Cached,
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=_GRAPH_FROM_KB),
    )


def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="edge-index")


def _opened(thread: ThreadPoolExecutor, path: Path, work: Callable[[], edge.EdgeShard]) -> edge.EdgeShard:
    """Opens a shard in its thread and says in our words why it could not be."""
    try:
        return thread.submit(work).result()
    except BaseException as error:  # a panic in Rust is no Exception
        thread.shutdown(wait=False)
        if isinstance(error, KeyboardInterrupt):
            raise
        if "WouldBlock" in str(error):
            raise IndexUnavailable(
                f"The index at {path} is open in another process, and only one can have it. Stop that "
                "`sightline serve` or `sightline index`, or wait for it to end, and try again."
            ) from error
        raise _corrupt(path, error) from error


def _corrupt(path: Path, reason: object) -> IndexCorrupt:
    return IndexCorrupt(
        f"The index files at {path} can't be read: {reason}. Go back with `sightline generations rollback`, or build "
        "the index again with `sightline index`."
    )


def _guarded(work: Callable[[], T], path: Path) -> T:
    try:
        return work()
    except SightlineError:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise IndexUnavailable(
            f"The index at {path} failed: {error}. Start the process again; if that does not help, build it again."
        ) from error


def _ranked(points: list[edge.ScoredPoint]) -> list[Hit]:
    hits = [Hit(str(point.id), point.score, point.payload or {}) for point in points]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _point(record: edge.Record, *, vectors: bool) -> Point:
    vector = np.asarray(record.vector, dtype=np.float32) if vectors else None
    return Point(str(record.id), vector, record.payload or {})


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


# ---------------------------------------------------------------- filters in Edge's terms

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


def _translate(filter: Filter | None) -> edge.Filter | None:
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
