"""One Qdrant Edge shard, blocking: an HNSW index in a folder. `EdgeIndex` gives it a thread, `ProcessIndex` a process.

What shapes this file, measured: Edge holds Python's GIL while it works (a query takes 0.2 to 5 ms, `optimize` minutes
at a million points). Its write-ahead log doubles the time of writing and only repeats what the flush after each write
makes sure of, so new shards have none; that log's lock went with it, so the folder is locked here. Edge can't facet a
field without a payload index, so those are counted here.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import qdrant_edge as edge

from engine.cores import usable_cores
from engine.errors import BadUserInput, IndexCorrupt, IndexUnavailable, SightlineError
from engine.filters import facet_values, most_frequent, parse_path
from engine.indexes.edge_filters import translate
from engine.indexes.exact import is_id, require_id, unit_query, unit_vector
from engine.ports import Filter, Hit, IndexInfo, Point, VectorQuery
from engine.settings import Settings

T = TypeVar("T")

_CONFIG: Final = "edge_config.json"
_LOCK: Final = "sightline.lock"
_PayloadIndex = edge.KeywordIndexParams | edge.IntegerIndexParams | edge.DatetimeIndexParams
# In mapped files. Edge's default makes them anew in memory at each opening: of a million points, 3 s instead of 1.
_PAYLOAD_INDEXES: Final[dict[str, _PayloadIndex]] = {
    "category": edge.KeywordIndexParams(memory=edge.Memory.Cached),
    "width": edge.IntegerIndexParams(memory=edge.Memory.Cached, lookup=True, range=True),
    "height": edge.IntegerIndexParams(memory=edge.Memory.Cached, lookup=True, range=True),
    "takenAt": edge.DatetimeIndexParams(memory=edge.Memory.Cached),
}
_GRAPH_FROM_KB: Final = 1  # a graph for every segment above 1 kB: Edge's default leaves 10 MB unindexed
_FULL_SCAN_KB: Final = 10_000  # filters that leave less than 10 MB of vectors are answered by comparing them all
_GRAPH_VECTORS: Final = 500_000  # that one graph is built over: bounds the memory that a build adds
_GRAPH_BYTES: Final = 1_024_000_000  # or as many as this holds, if they are short
_OVERSAMPLING: Final = 2.0  # rescoring twice the limit: recall@10 of int8 0.94 -> 0.999 on 10,000 x 512, at no cost
_COMPONENT_BYTES: Final = 4
_PAGE: Final = 4096  # points read at once when all are read
_FACET_VALUES: Final = 10_000  # asked of Edge, so that values of equal count can be sorted before the cut


class Shard:
    """An open shard. Make it with `create` or `open`, call it from one thread at a time; errors are ours."""

    def __init__(self, shard: edge.EdgeShard, path: Path, dimension: int, settings: Settings, lock: int) -> None:
        """Takes over an open shard, and the descriptor that locks its folder."""
        self.path = path
        self.dimension = dimension
        self._shard = shard
        self._settings = settings
        self._lock: int | None = lock
        info = shard.info()
        self._without_graph = info.points_count - info.indexed_vectors_count

    @classmethod
    def create(cls, path: Path, dimension: int, settings: Settings) -> Shard:
        """A new, empty shard of (dimension,) vectors in the folder `path`, which is made.

        Raises `IndexUnavailable` when the folder already holds one.
        """
        if (path / _CONFIG).exists():
            raise IndexUnavailable(f"{path} already holds an index. Open it, or choose another folder.")
        path.mkdir(parents=True, exist_ok=True)

        def make() -> edge.EdgeShard:
            shard = edge.EdgeShard.create(str(path), _config(settings, dimension, wal_enabled=False))
            for field, schema in _PAYLOAD_INDEXES.items():
                shard.update(edge.UpdateOperation.create_field_index(field, schema))
            shard.flush()
            return shard

        lock = _locked(path)
        return cls(_opened(path, lock, make), path, dimension, settings, lock)

    @classmethod
    def open(cls, path: Path, settings: Settings) -> Shard:
        """The shard in the folder `path`. Settings that changed since it was built apply from the next `optimize`.

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
        lock = _locked(path)
        shard = _opened(path, lock, lambda: edge.EdgeShard.load(str(path), config))
        return cls(shard, path, dimension, settings, lock)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._lock is None

    def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """One sorted list of hits per query. HNSW candidates are at least the limit, and rescored in full precision."""

        def find() -> list[list[Hit]]:
            batch = edge.QueryBatchRequest([self._request(query) for query in queries])
            return [_ranked(points) for points in self._shard.query_batch(batch)]

        return self._guarded(find)

    def count(self, filter: Filter | None = None) -> int:
        """How many points the filter admits, exactly."""
        request = edge.CountRequest(exact=True, filter=translate(filter))
        return self._guarded(lambda: self._shard.count(request))

    def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        """The points of these ids, in that order, unknown ones left out; their payloads are {} when not asked for."""
        known: list[Any] = [id_ for id_ in ids if is_id(id_)]
        records = self._guarded(lambda: self._shard.retrieve(known, payload, vectors))
        found = {str(record.id): _point(record, vectors=vectors) for record in records}
        return [found[id_] for id_ in known if id_ in found]

    def facet(self, field: str, filter: Filter | None = None, limit: int = 100) -> list[tuple[str, int]]:
        """The values of a field with their numbers of points. Fast for category, a full read for other fields."""
        key, *_ = parse_path(field)
        translated = translate(filter)

        def indexed() -> Counter[str]:
            request = edge.FacetRequest(field, limit=max(limit, _FACET_VALUES), exact=True, filter=translated)
            return Counter({str(hit.value): hit.count for hit in self._shard.facet(request).hits})

        def counted() -> Counter[str]:
            counts: Counter[str] = Counter()
            for record in self._scroll(translated, [f'"{key}"']):
                counts.update(facet_values(field, record.payload or {}))
            return counts

        counts = self._guarded(indexed if field == "category" else counted)
        return most_frequent(counts, limit)

    def upsert(self, points: Sequence[Point]) -> None:
        """Writes points and flushes them; within one call the last of equal ids wins.

        Whenever enough vectors for a graph have come together, it is built before this returns, so that the next one
        needs no more memory than this. Raises `BadUserInput` for a vector of another length, a payload that is not
        JSON, or an id that is no UUID.
        """
        latest = {point.id: self._encoded(point) for point in points}
        if not latest:
            return
        self._update(edge.UpdateOperation.upsert_points(list(latest.values())))
        self._without_graph += len(latest)
        if self._without_graph >= _vectors_a_graph(self.dimension):
            self.optimize()

    def delete(self, ids: Sequence[str]) -> None:
        """Removes points; unknown ids are ignored."""
        known: list[Any] = [id_ for id_ in ids if is_id(id_)]
        if known:
            self._update(edge.UpdateOperation.delete_points(known))

    def ids(self, after: str = "", limit: int | None = None) -> list[str]:
        """The ids that come after one, sorted, and at most so many; every id when nothing is named."""
        together = _PAGE if limit is None else min(limit + 1, _PAGE)  # a page begins with the id that it comes after

        def find() -> list[str]:
            records = self._scroll(None, [], after or None, together)
            return list(islice((id_ for record in records if (id_ := str(record.id)) != after), limit))

        return self._guarded(find)

    def optimize(self) -> None:
        """Builds graph and quantized vectors. Blocks all of this process's Python for as long as it takes."""

        def build() -> None:
            self._shard.optimize()
            self._shard.flush()
            self._without_graph = 0

        self._guarded(build)

    def info(self) -> IndexInfo:
        """Size and shape; `disk_bytes` is what the files occupy, less than their length where they are sparse."""
        info = self._guarded(self._shard.info)
        occupied = sum(file.stat().st_blocks * 512 for file in self.path.rglob("*") if file.is_file())
        return IndexInfo(info.points_count, info.indexed_vectors_count, self.dimension, occupied)

    def close(self) -> None:
        """Flushes and lets go of the files; harmless when done twice.

        Edge has the system forget their contents too: who opens them next reads them from disk.
        """
        if self._lock is None:
            return

        def close() -> None:
            self._shard.flush()
            self._shard.close()

        try:
            self._guarded(close)
        finally:
            os.close(self._lock)
            self._lock = None

    def _update(self, operation: edge.UpdateOperation) -> None:
        def write() -> None:
            self._shard.update(operation)
            self._shard.flush()

        self._guarded(write)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Whatever Edge raises becomes `IndexUnavailable`."""
        if self._lock is None:
            raise IndexUnavailable(f"The index at {self.path} is closed. Open it again.")
        try:
            return work()
        except (SightlineError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            raise IndexUnavailable(
                f"The index at {self.path} failed: {error}. Start the process again; if that does not help, build it "
                "again."
            ) from error

    def _request(self, query: VectorQuery) -> edge.QueryRequest:
        vector: Any = unit_query(query, self.dimension)
        return edge.QueryRequest(
            limit=query.limit,
            query=edge.Query.Nearest(vector),
            filter=translate(query.filter),
            score_threshold=query.score_threshold,
            with_payload=query.payload,
            params=edge.SearchParams(
                hnsw_ef=max(self._settings.search_ef, query.limit),
                exact=query.exact,
                quantization=edge.QuantizationSearchParams(
                    ignore=query.exact, rescore=True, oversampling=_OVERSAMPLING
                ),
            ),
        )

    def _encoded(self, point: Point) -> edge.Point:
        vector: Any = unit_vector(point, self.dimension)
        require_id(point.id)
        try:
            return edge.Point(point.id, vector, dict(point.payload))
        except (TypeError, ValueError) as error:
            raise BadUserInput(f"The payload of point {point.id} is not plain JSON: {error}.") from error

    def _scroll(
        self, filter: edge.Filter | None, fields: list[str], offset: Any = None, together: int = _PAGE
    ) -> Iterator[edge.Record]:
        """All records that pass, with these payload fields only, from an id on; so many are read at once."""
        while True:
            request = edge.ScrollRequest(offset=offset, limit=together, filter=filter, with_payload=fields or False)
            records, offset = self._shard.scroll(request)
            yield from records
            if offset is None:
                return


def _vectors_a_graph(dimension: int) -> int:
    """How many vectors one graph is built over."""
    return max(_GRAPH_VECTORS, _GRAPH_BYTES // (dimension * _COMPONENT_BYTES))


def _config(settings: Settings, dimension: int, *, wal_enabled: bool | None = None) -> edge.EdgeConfig:
    graph_kb = _vectors_a_graph(dimension) * dimension * _COMPONENT_BYTES // 1024
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
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=_GRAPH_FROM_KB,
            default_segment_number=1,  # as few as `max_segment_size` allows
            max_segment_size=graph_kb + graph_kb // 8,  # so that what one call of `upsert` adds still fits in
        ),
        # Edge's default is eight, even for two processors. At each search all of them look for work, and yield some
        # thirty times before they sleep: 300 switches and a fifth of the processor time, for two or three segments.
        max_search_threads=usable_cores(),
        wal_enabled=wal_enabled,
    )


def _locked(path: Path) -> int:
    """Locks a shard's folder for as long as the descriptor is open; the lock of a process that dies is free at once."""
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise _in_use(path) from error
    return descriptor


def _opened(path: Path, lock: int, work: Callable[[], edge.EdgeShard]) -> edge.EdgeShard:
    """Opens a shard and says in our words why it could not be."""
    try:
        return work()
    except BaseException as error:  # a panic in Rust is no Exception
        os.close(lock)
        if isinstance(error, KeyboardInterrupt):
            raise
        if "WouldBlock" in str(error):
            raise _in_use(path) from error
        raise _corrupt(path, error) from error


def _in_use(path: Path) -> IndexUnavailable:
    return IndexUnavailable(
        f"The index at {path} is open in another process, and only one can have it. Stop that `sightline serve` or "
        "`sightline index`, or wait for it to end, and try again."
    )


def _corrupt(path: Path, reason: object) -> IndexCorrupt:
    return IndexCorrupt(
        f"The index files at {path} can't be read: {reason}. Go back with `sightline generations rollback`, or build "
        "the index again with `sightline index`."
    )


def _ranked(points: list[edge.ScoredPoint]) -> list[Hit]:
    hits = [Hit(str(point.id), point.score, point.payload or {}) for point in points]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _point(record: edge.Record, *, vectors: bool) -> Point:
    vector = np.asarray(record.vector, dtype=np.float32) if vectors else None
    return Point(str(record.id), vector, record.payload or {})
