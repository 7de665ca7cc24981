"""A collection of a Qdrant server as a vector index, over gRPC: what production uses in Edge's place.

The server searches, stores and builds graphs by itself, so this only asks: every call has a deadline, many may be under
way, and nothing here holds the event loop for longer than it takes to read a message. The answers are Edge's, which is
the same engine; `engine.conformance` holds both to it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final

from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexUnavailable
from engine.filters import facet_values, most_frequent, parse_path
from engine.indexes.exact import is_id, require_id, unit_query, unit_vector
from engine.indexes.qdrant_connection import QdrantConnection
from engine.indexes.qdrant_stubs import pb
from engine.indexes.qdrant_terms import (
    copied_point,
    dense,
    packed_point,
    point_id,
    translate,
    unpacked_fields,
    unpacked_hits,
    unpacked_point,
)
from engine.ports import Filter, Hit, IndexInfo, Point, VectorQuery
from engine.settings import Settings

_PAYLOAD_INDEXES: Final = {
    "category": pb.FieldTypeKeyword,
    "width": pb.FieldTypeInteger,
    "height": pb.FieldTypeInteger,
    "takenAt": pb.FieldTypeDatetime,
}
_FACETS: Final = {("category",), ("width",), ("height",)}  # whose payload index the server can count by
_FACET_VALUES: Final = 10_000  # asked of the server, so that values of equal count can be sorted before the cut
_GRAPH_FROM_KB: Final = 10_000  # segments under 10 MB of vectors are compared one by one: exact, and no slower
_OVERSAMPLING: Final = 2.0  # as in `shard.py`
_PAGE: Final = 4096  # points read at once when all are read
_BATCH_POINTS: Final = 1000
_BATCH_BYTES: Final = 3 << 20  # proxies pass 4 MB of a gRPC message if nobody tells them otherwise
_COMPONENT_BYTES: Final = 4
_PAYLOAD_BYTES: Final = 2048  # of a point, more or less; pages are cut by it before they are seen
_POLL_S: Final = 0.05  # between the first looks at a build; the pause doubles
_POLL_MAX_S: Final = 2.0
_STALL_S: Final = 3600.0  # without any progress until a build is given up: one graph over a large segment shows none
_GREEN_LOOKS: Final = 2  # in a row: replicas may not have begun when the first says that it has nothing to do


class QdrantIndex:
    """One collection. Make it with `create` or `open`, and use it from one event loop at a time."""

    def __init__(self, connection: QdrantConnection, collection: str, dimension: int, settings: Settings) -> None:
        """Takes over an open connection; `collection` may be an alias."""
        self.connection: Final = connection
        self.collection: Final = collection
        self._dimension = dimension
        self._settings = settings

    @classmethod
    async def create(
        cls, collection: str, dimension: int, settings: Settings, *, patience_s: float = 0.0
    ) -> QdrantIndex:
        """A new, empty collection of (dimension,) vectors. Graphs are built when `optimize` is called, not before.

        With `patience_s` all that is done with it waits so many seconds for a server that is away.
        Raises `IndexUnavailable` when there is one of that name already, or the server does not answer.
        """
        connection = QdrantConnection(settings, patience_s=patience_s)
        try:
            await connection.create(_collection(collection, dimension, settings))
            for field, kind in _PAYLOAD_INDEXES.items():
                request = pb.CreateFieldIndexCollection(
                    collection_name=collection, field_name=field, field_type=kind, wait=True
                )
                await connection.write("Points/CreateFieldIndex", request)
        except BaseException:
            await connection.close()
            raise
        return cls(connection, collection, dimension, settings)

    @classmethod
    async def open(cls, collection: str, settings: Settings, *, patience_s: float = 0.0) -> QdrantIndex:
        """The collection, or what an alias of that name stands for; with `patience_s` as for `create`.

        Raises `IndexNotFound` when there is none, `IndexCorrupt` when it was not made by `create`, `IndexUnavailable`
        when the server does not answer.
        """
        connection = QdrantConnection(settings, patience_s=patience_s)
        try:
            reply = await connection.read("Collections/Get", pb.GetCollectionInfoRequest(collection_name=collection))
        except BaseException:
            await connection.close()
            raise
        vectors = reply.result.config.params.vectors_config.params
        if vectors.distance != pb.Cosine or not vectors.size:
            await connection.close()
            raise IndexCorrupt(
                f"Collection {collection!r} of Qdrant at {connection.address} does not hold one unnamed vector a "
                "point, compared by cosine. It is not Sightline's: choose another name."
            )
        return cls(connection, collection, vectors.size, settings)

    # ---------------------------------------------------------------- reading

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """One sorted list of hits per query. HNSW candidates are at least the limit, and rescored in full precision.

        Raises `IndexCorrupt` when the collection is gone since it was opened, or another one is in its place.
        """
        if not queries:
            return []
        requests = [self._query(query) for query in queries]
        batch = pb.QueryBatchPoints(collection_name=self.collection, query_points=requests)
        try:
            reply = await self.connection.read("Points/QueryBatch", batch)
        except IndexNotFound as error:
            raise IndexCorrupt(f"The collection of what serves is gone. {error}") from error
        return [unpacked_hits(answer.result) for answer in reply.result]

    async def count(self, filter: Filter | None = None) -> int:
        """How many points the filter admits, exactly."""
        return await self.connection.count(self.collection, translate(filter))

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        """The points of these ids, in that order, unknown ones left out; their payloads are {} when not asked for."""
        known = [id_ for id_ in ids if is_id(id_)]
        found: dict[str, Point] = {}
        for start in range(0, len(known), _BATCH_POINTS):
            request = pb.GetPoints(
                collection_name=self.collection,
                ids=[point_id(id_) for id_ in known[start : start + _BATCH_POINTS]],
                with_payload=pb.WithPayloadSelector(enable=payload),
                with_vectors=pb.WithVectorsSelector(enable=vectors),
            )
            reply = await self.connection.read("Points/Get", request)
            found |= {record.id.uuid: unpacked_point(record, vectors=vectors) for record in reply.result}
        return [found[id_] for id_ in known if id_ in found]

    async def facet(self, field: str, filter: Filter | None = None, limit: int = 100) -> list[tuple[str, int]]:
        """The values of a field with their numbers of points. Fast for category, width and height, else a full read."""
        path, admitted = parse_path(field), translate(filter)
        counts: Counter[str] = Counter()
        if path in _FACETS:
            request = pb.FacetCounts(
                collection_name=self.collection,
                key=str(path[0]),
                filter=admitted,
                limit=max(limit, _FACET_VALUES),
                exact=True,
            )
            reply = await self.connection.read("Points/Facet", request)
            for hit in reply.hits:
                counts[str(getattr(hit.value, hit.value.WhichOneof("variant")))] = hit.count
        else:
            async for record in self._scroll(admitted, [f'"{path[0]}"']):
                counts.update(facet_values(field, unpacked_fields(record.payload)))
        return most_frequent(counts, limit)

    async def ids(self, after: str = "", limit: int | None = None) -> list[str]:
        """The ids that come after one, sorted, and at most so many; every id when nothing is named."""
        request = pb.ScrollPoints(
            collection_name=self.collection,
            offset=point_id(after) if after else None,
            limit=_PAGE if limit is None else min(limit + 1, _PAGE),  # a page begins with the id that it comes after
            with_payload=pb.WithPayloadSelector(enable=False),
        )
        found: list[str] = []
        async with aclosing(self._pages(request)) as pages:
            async for records in pages:
                found += [record.id.uuid for record in records if record.id.uuid != after]
                if limit is not None and len(found) >= limit:
                    break
        return found[:limit]

    async def info(self) -> IndexInfo:
        """Size and shape; `disk_bytes` is 0, because the files are the server's."""
        described = await self._described()
        green = described.status == pb.Green  # while segments are rebuilt, the server may count a point twice
        points = described.points_count if green else await self.count()
        return IndexInfo(points, described.indexed_vectors_count, self._dimension, disk_bytes=0)

    # ---------------------------------------------------------------- writing

    async def upsert(self, points: Sequence[Point]) -> None:
        """Writes points in batches of at most 1,000 and 3 MB; within one call the last of equal ids wins.

        Raises `BadUserInput` for a vector of another length, a payload that is not JSON, or an id that is no UUID,
        before anything is written. When the server fails, earlier batches stay written: write the same points again.
        """
        latest = {point.id: self._packed(point) for point in points}
        for batch in _batches(list(latest.values())):
            request = pb.UpsertPoints(collection_name=self.collection, wait=True, points=batch)
            await self._update("Points/Upsert", request)

    async def copy(self, source: str) -> None:
        """Writes all points of another collection of the server to this one, a page of at most 3 MB at a time."""
        page = min(max(_BATCH_BYTES // (self._dimension * _COMPONENT_BYTES + _PAYLOAD_BYTES), 1), _BATCH_POINTS)
        request = pb.ScrollPoints(
            collection_name=source,
            limit=page,
            with_payload=pb.WithPayloadSelector(enable=True),
            with_vectors=pb.WithVectorsSelector(enable=True),
        )
        async for records in self._pages(request):
            for batch in _batches([copied_point(record) for record in records]):
                points = pb.UpsertPoints(collection_name=self.collection, wait=True, points=batch)
                await self._update("Points/Upsert", points)

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes points; unknown ids are ignored."""
        known = [point_id(id_) for id_ in ids if is_id(id_)]
        for start in range(0, len(known), _BATCH_POINTS):
            selected = pb.PointsSelector(points=pb.PointsIdsList(ids=known[start : start + _BATCH_POINTS]))
            request = pb.DeletePoints(collection_name=self.collection, wait=True, points=selected)
            await self._update("Points/Delete", request)

    async def optimize(self) -> None:
        """Has the server build graphs and quantized vectors with the present settings, and waits until it is done.

        From then on the server keeps them up to date by itself. Raises `IndexUnavailable` when the server reports that
        it failed, or nothing has changed for an hour.
        """
        loop = asyncio.get_running_loop()
        greens, pause, seen, since = 0, _POLL_S, None, loop.time()
        while greens < _GREEN_LOOKS:
            described = await self._described()
            if not self._asked(described) or described.status == pb.Grey:  # grey: it waits to be told to begin
                await self.connection.write("Collections/Update", self._build(), timeout_s=_STALL_S)
                greens = 0
            elif described.status == pb.Red or not described.optimizer_status.ok:
                raise IndexUnavailable(
                    f"Qdrant at {self.connection.address} could not build collection {self.collection!r}: "
                    f"{described.optimizer_status.error or 'its log says why'}. Look for a full disk or too little "
                    "memory there, then run this again."
                )
            else:
                greens = greens + 1 if described.status == pb.Green else 0
            progress = (described.status, described.indexed_vectors_count, described.segments_count)
            if progress != seen:
                seen, since = progress, loop.time()
            elif not greens and loop.time() - since > _STALL_S:
                raise IndexUnavailable(
                    f"Qdrant at {self.connection.address} has made no progress with collection {self.collection!r} for "
                    f"{_STALL_S:g} s. Look at its load and its log, then run this again: it goes on where it is."
                )
            if greens < _GREEN_LOOKS:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _POLL_MAX_S)

    async def close(self) -> None:
        """Closes the connections; harmless when done twice. The collection stays."""
        await self.connection.close()

    # ---------------------------------------------------------------- messages

    def _query(self, query: VectorQuery) -> Any:
        vector = unit_query(query, self._dimension)
        return pb.QueryPoints(
            collection_name=self.collection,
            query=pb.Query(nearest=pb.VectorInput(dense=dense(vector))),
            filter=translate(query.filter),
            score_threshold=query.score_threshold,
            limit=_positive(query.limit),
            with_payload=pb.WithPayloadSelector(enable=query.payload),
            params=pb.SearchParams(
                hnsw_ef=max(self._settings.search_ef, query.limit),
                exact=query.exact,
                quantization=pb.QuantizationSearchParams(ignore=query.exact, rescore=True, oversampling=_OVERSAMPLING),
            ),
        )

    def _packed(self, point: Point) -> Any:
        vector = unit_vector(point, self._dimension)
        require_id(point.id)
        return packed_point(point, vector)

    async def _update(self, method: str, request: Any) -> None:
        reply = await self.connection.write(method, request)
        if reply.result.status != pb.Completed:
            raise IndexUnavailable(
                f"Qdrant at {self.connection.address} has not finished {method}: "
                f"{pb.UpdateStatus.Name(reply.result.status)}. Write the same again."
            )

    async def _scroll(self, filter: Any, fields: list[str]) -> AsyncIterator[Any]:
        """All records that pass, with these payload fields only."""
        payload = pb.WithPayloadSelector(include=pb.PayloadIncludeSelector(fields=fields))
        request = pb.ScrollPoints(collection_name=self.collection, filter=filter, limit=_PAGE, with_payload=payload)
        async for records in self._pages(request):
            for record in records:
                yield record

    async def _pages(self, request: Any) -> AsyncGenerator[Any]:
        """The records of one page after the other."""
        while True:
            reply = await self.connection.read("Points/Scroll", request)
            yield reply.result
            if not reply.HasField("next_page_offset"):
                return
            request.offset.CopyFrom(reply.next_page_offset)

    async def _described(self) -> Any:
        request = pb.GetCollectionInfoRequest(collection_name=self.collection)
        return (await self.connection.read("Collections/Get", request)).result

    def _asked(self, described: Any) -> bool:
        """Whether the collection has the settings that it is to be built with."""
        config, wanted = described.config, self._build()
        scalar = wanted.quantization_config.scalar
        return bool(
            config.optimizer_config.indexing_threshold == wanted.optimizers_config.indexing_threshold
            and (config.hnsw_config.m, config.hnsw_config.ef_construct)
            == (wanted.hnsw_config.m, wanted.hnsw_config.ef_construct)
            and config.quantization_config.scalar.quantile == scalar.quantile
        )

    def _build(self) -> Any:
        """Switches building on, with the present settings."""
        hnsw, quantization = _hnsw(self._settings), _quantization(self._settings)
        return pb.UpdateCollection(
            collection_name=self.collection,
            optimizers_config=pb.OptimizersConfigDiff(indexing_threshold=_GRAPH_FROM_KB),
            hnsw_config=hnsw,
            quantization_config=pb.QuantizationConfigDiff(scalar=quantization),
        )


def _collection(name: str, dimension: int, settings: Settings) -> Any:
    """What a new collection is made of. The flags of where things lie are those that every server version knows."""
    return pb.CreateCollection(
        collection_name=name,
        vectors_config=pb.VectorsConfig(
            params=pb.VectorParams(size=dimension, distance=pb.Cosine, on_disk=False),
        ),
        hnsw_config=_hnsw(settings),
        quantization_config=pb.QuantizationConfig(scalar=_quantization(settings)),
        optimizers_config=pb.OptimizersConfigDiff(indexing_threshold=0),  # no graph until `optimize`
        on_disk_payload=False,
        shard_number=settings.qdrant_shards,
        replication_factor=settings.qdrant_replicas,
        write_consistency_factor=settings.qdrant_write_consistency,
        # Hosted servers forbid by default what our filters do: to name any field.
        strict_mode_config=pb.StrictModeConfig(unindexed_filtering_retrieve=True),
    )


def _hnsw(settings: Settings) -> Any:
    return pb.HnswConfigDiff(
        m=settings.search_hnsw_m,
        ef_construct=settings.search_ef_construct,
        full_scan_threshold=_GRAPH_FROM_KB,  # filters that leave less than 10 MB of vectors compare them all
        on_disk=False,
    )


def _quantization(settings: Settings) -> Any:
    return pb.ScalarQuantization(type=pb.Int8, quantile=settings.search_quantile, always_ram=True)


def _batches(points: list[Any]) -> Iterator[list[Any]]:
    """Points in groups that one message holds; a point larger than that goes alone."""
    batch: list[Any] = []
    size = 0
    for point in points:
        own = point.ByteSize()
        if batch and (len(batch) == _BATCH_POINTS or size + own > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += own
    if batch:
        yield batch


def _positive(limit: int) -> int:
    if limit < 1:
        raise BadUserInput(f"limit: {limit} is too small. Ask for 1 hit or more.")
    return limit
