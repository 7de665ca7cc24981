"""The stand-in's gRPC services, as far as Sightline uses them; anything else is UNIMPLEMENTED."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import qdrant_edge as edge

from engine.indexes.qdrant_stubs import pb
from tests.support.qdrant_server import messages
from tests.support.qdrant_server.faults import Faults
from tests.support.qdrant_server.refusals import (
    Refused,
    check_between,
    check_dimension,
    check_least,
    check_name,
    check_new_name,
    collection_exists,
    invalid,
    no_collection,
    not_covered,
    wrong_input,
)
from tests.support.qdrant_server.storage import KINDS, Storage, Stored

VERSION: Final = "1.16.0"
_DEFAULT_LIMIT: Final = 10
_COUNTABLE: Final = {
    edge.PayloadSchemaType.Keyword,
    edge.PayloadSchemaType.Integer,
    edge.PayloadSchemaType.Bool,
    edge.PayloadSchemaType.Uuid,
}


async def start(data: Path, host: str, port: int, api_key: str) -> tuple[grpc.aio.Server, int, Storage]:
    """A server that answers, its port, and its storage, which is to be closed after it."""
    storage, faults = Storage(data), Faults(data / "faults.json")
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0))
    server = grpc.aio.server(interceptors=[_Gate(faults, api_key)], options=options)
    pb.add_QdrantServicer_to_server(Health(), server)
    pb.add_CollectionsServicer_to_server(Collections(storage, faults), server)
    pb.add_PointsServicer_to_server(Points(storage), server)
    pb.add_SnapshotsServicer_to_server(Snapshots(storage), server)
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server, bound, storage


class _Gate(grpc.aio.ServerInterceptor):
    """Before each call: its key and its fault. After it: its refusal as a status."""

    def __init__(self, faults: Faults, api_key: str) -> None:
        self._faults = faults
        self._api_key = api_key

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method, metadata = handler_call_details.method, dict(handler_call_details.invocation_metadata or ())

        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                self._authenticate(metadata)
                await self._faults.before(method)
                reply = handler.unary_unary(request, context)
            except Refused as refused:
                await context.abort(refused.code, refused.message)
            except NotImplementedError:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"The stand-in for Qdrant does not cover {method}.")
            await self._faults.after(method, context.peer())
            return reply

        return handler and grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )

    def _authenticate(self, metadata: dict[str, str]) -> None:
        if not self._api_key:
            return
        brought = metadata.get("api-key") or metadata.get("authorization", "").removeprefix("Bearer ")
        if not brought:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key or an Authorization bearer token")
        if not hmac.compare_digest(brought.encode(), self._api_key.encode()):
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")


class Health(pb.QdrantServicer):
    """Says that it is there, and what it is."""

    def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return pb.HealthCheckReply(title="Sightline's stand-in for Qdrant", version=VERSION)


# ---------------------------------------------------------------- collections


class Collections(pb.CollectionsServicer):
    """Collections and aliases."""

    def __init__(self, storage: Storage, faults: Faults) -> None:
        self._storage = storage
        self._faults = faults

    def Get(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        stored = self._storage.get(request.collection_name)
        status = self._faults.status()
        if status is None:
            stored.build()
        info = stored.info()
        schema = {
            field: pb.PayloadSchemaInfo(
                data_type=next(ours for theirs, ours in KINDS.values() if theirs == found.data_type),
                points=found.points,
            )
            for field, found in info.payload_schema.items()
        }
        described = pb.CollectionInfo(
            status=pb.CollectionStatus.Value(status or "Green"),
            optimizer_status=pb.OptimizerStatus(ok=status != "Red", error="a fault" if status == "Red" else ""),
            segments_count=info.segments_count,
            config=stored.config,
            payload_schema=schema,
            points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count,
        )
        return pb.GetCollectionInfoResponse(result=described)

    def List(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        names = [pb.CollectionDescription(name=name) for name in self._storage.collections]
        return pb.ListCollectionsResponse(collections=names)

    def CollectionExists(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        name = self._storage.aliases.get(request.collection_name, request.collection_name)
        return pb.CollectionExistsResponse(result=pb.CollectionExists(exists=name in self._storage.collections))

    def Create(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_new_name(request.collection_name)
        self._storage.create(request.collection_name, _config(request))
        return pb.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        stored = self._storage.get(request.collection_name)
        config = pb.CollectionConfig.FromString(stored.config.SerializeToString())
        config.optimizer_config.MergeFrom(request.optimizers_config)
        config.hnsw_config.MergeFrom(request.hnsw_config)
        match request.quantization_config.WhichOneof("quantization"):
            case "scalar":
                config.quantization_config.scalar.CopyFrom(request.quantization_config.scalar)
            case "disabled":
                config.ClearField("quantization_config")
        for key, value in request.metadata.items():
            config.metadata[key].CopyFrom(value)
        _check(config)
        stored.reconfigure(config)
        return pb.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        there = self._storage.delete(request.collection_name)
        self._storage.record_aliases()
        return pb.CollectionOperationResponse(result=there)

    def UpdateAliases(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """One by one, as the real server does: what came before an action that fails stays done."""
        if any(action.WhichOneof("action") is None for action in request.actions):
            raise invalid("Malformed AliasOperation type")
        try:
            for action in request.actions:
                self._act(action)
        finally:
            self._storage.record_aliases()
        return pb.CollectionOperationResponse(result=True)

    def _act(self, action: Any) -> None:
        aliases, known = dict(self._storage.aliases), self._storage.collections
        match action.WhichOneof("action"):
            case "create_alias":
                create = action.create_alias
                if create.collection_name not in known:
                    raise no_collection(create.collection_name)
                if create.alias_name in known:
                    raise collection_exists(create.alias_name)
                aliases[create.alias_name] = create.collection_name
            case "delete_alias":
                aliases.pop(action.delete_alias.alias_name, None)
            case "rename_alias":
                old = action.rename_alias.old_alias_name
                if old not in aliases:
                    raise Refused(grpc.StatusCode.NOT_FOUND, f"Not found: Alias {old} does not exists!")
                aliases[action.rename_alias.new_alias_name] = aliases.pop(old)
        self._storage.point_aliases(aliases)

    def ListAliases(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return _aliases(self._storage.aliases)

    def ListCollectionAliases(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        if request.collection_name not in self._storage.collections:
            raise no_collection(request.collection_name)
        found = {alias: name for alias, name in self._storage.aliases.items() if name == request.collection_name}
        return _aliases(found)


def _aliases(found: dict[str, str]) -> Any:
    described = [pb.AliasDescription(alias_name=alias, collection_name=name) for alias, name in found.items()]
    return pb.ListAliasesResponse(aliases=described)


def _config(request: Any) -> Any:
    """What a new collection is made of, with the server's defaults for what the request leaves open."""
    vectors = request.vectors_config
    if vectors.WhichOneof("config") != "params" or request.HasField("sparse_vectors_config"):
        raise not_covered("collections with other than one unnamed dense vector")
    if vectors.params.distance != pb.Cosine:
        raise not_covered(f"the distance {pb.Distance.Name(vectors.params.distance)}")
    config = pb.CollectionConfig(
        params=pb.CollectionParams(
            shard_number=request.shard_number if request.HasField("shard_number") else 1,
            on_disk_payload=request.on_disk_payload if request.HasField("on_disk_payload") else True,
            vectors_config=vectors,
            replication_factor=request.replication_factor if request.HasField("replication_factor") else 1,
            write_consistency_factor=(
                request.write_consistency_factor if request.HasField("write_consistency_factor") else 1
            ),
        ),
        hnsw_config=pb.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
        optimizer_config=pb.OptimizersConfigDiff(indexing_threshold=10_000),
        strict_mode_config=request.strict_mode_config,
        metadata=request.metadata,
    )
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.optimizer_config.MergeFrom(request.optimizers_config)
    if request.HasField("quantization_config"):
        config.quantization_config.CopyFrom(request.quantization_config)
    _check(config)
    return config


def _check(config: Any) -> None:
    check_between("vectors_config.size", config.params.vectors_config.params.size, 1, 65536)
    check_least("hnsw_config.ef_construct", config.hnsw_config.ef_construct, 4)
    for name in ("shard_number", "replication_factor", "write_consistency_factor"):
        if not getattr(config.params, name):
            raise wrong_input(f"`{name}` cannot be 0")
    if config.quantization_config.WhichOneof("quantization") == "scalar":
        check_between("quantization_config.quantile", config.quantization_config.scalar.quantile, 0.5, 1)


# ---------------------------------------------------------------- points


class Points(pb.PointsServicer):
    """Points of one unnamed dense vector."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def _stored(self, request: Any) -> Stored:
        check_name(request.collection_name)
        return self._storage.get(request.collection_name)

    def Upsert(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        stored = self._stored(request)
        points = []
        for point in request.points:
            vector = messages.vector_in(point.vectors)
            check_dimension(len(vector), stored.dimension)
            points.append(edge.Point(messages.id_in(point.id), vector, messages.payload_in(point.payload)))
        stored.write(edge.UpdateOperation.upsert_points(points))
        return _done(request)

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        stored = self._stored(request)
        match request.points.WhichOneof("points_selector_one_of"):
            case "points":
                ids: list[Any] = [messages.id_in(each) for each in request.points.points.ids]
                operation = edge.UpdateOperation.delete_points(ids)
            case "filter":
                operation = edge.UpdateOperation.delete_points_by_filter(messages.filter_in(request.points.filter))
            case _:
                raise invalid("PointSelector is missing")
        stored.write(operation)
        return _done(request)

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        stored = self._stored(request)
        if request.field_type not in KINDS:
            raise not_covered(f"payload indexes of type {pb.FieldType.Name(request.field_type)}")
        stored.write(edge.UpdateOperation.create_field_index(request.field_name, KINDS[request.field_type][0]))
        return _done(request)

    def DeleteFieldIndex(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self._stored(request).write(edge.UpdateOperation.delete_field_index(request.field_name))
        return _done(request)

    def Get(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        ids: list[Any] = [messages.id_in(each) for each in request.ids]
        records = self._stored(request).shard.retrieve(
            ids, messages.wanted_payload(request.with_payload), messages.wanted_vectors(request.with_vectors)
        )
        return pb.GetResponse(result=[messages.record_out(record) for record in records])

    def Scroll(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        check_least("limit", limit, 1)
        if request.HasField("order_by"):
            raise not_covered("order_by")
        records, following = self._stored(request).shard.scroll(
            edge.ScrollRequest(
                offset=messages.id_in(request.offset) if request.HasField("offset") else None,
                limit=limit,
                filter=messages.optional_filter(request),
                with_payload=messages.wanted_payload(request.with_payload),
                with_vector=messages.wanted_vectors(request.with_vectors),
            )
        )
        reply = pb.ScrollResponse(result=[messages.record_out(record) for record in records])
        if following is not None:
            reply.next_page_offset.CopyFrom(messages.id_out(following))
        return reply

    def Count(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        exact = request.exact if request.HasField("exact") else True
        asked = edge.CountRequest(exact=exact, filter=messages.optional_filter(request))
        return pb.CountResponse(result=pb.CountResult(count=self._stored(request).shard.count(asked)))

    def Query(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        [found] = self._query(self._stored(request), [request])
        return pb.QueryResponse(result=found)

    def QueryBatch(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        found = self._query(self._stored(request), list(request.query_points))
        return pb.QueryBatchResponse(result=[pb.BatchResult(result=points) for points in found])

    def _query(self, stored: Stored, requests: list[Any]) -> list[list[Any]]:
        batch = edge.QueryBatchRequest([_nearest(stored, request) for request in requests])
        return [[messages.scored_out(point) for point in points] for points in stored.shard.query_batch(batch)]

    def Facet(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        stored = self._stored(request)
        limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
        check_least("limit", limit, 1)
        schema = stored.shard.info().payload_schema.get(request.key)
        if schema is None or schema.data_type not in _COUNTABLE:
            raise wrong_input(
                f"No appropriate index for faceting: `{request.key}`. Please create one to facet on this field."
            )
        asked = edge.FacetRequest(
            request.key, limit=limit, exact=request.exact, filter=messages.optional_filter(request)
        )
        hits = []
        for hit in stored.shard.facet(asked).hits:
            kind = {bool: "bool_value", int: "integer_value"}.get(type(hit.value), "string_value")
            hits.append(pb.FacetHit(value=pb.FacetValue(**{kind: hit.value}), count=hit.count))
        return pb.FacetResponse(hits=hits)


def _done(request: Any) -> Any:
    """Everything is done before it is answered, whatever `wait` says; only the word differs."""
    status = pb.Completed if request.wait else pb.Acknowledged
    return pb.PointsOperationResponse(result=pb.UpdateResult(operation_id=time.monotonic_ns(), status=status))


def _nearest(stored: Stored, request: Any) -> edge.QueryRequest:
    limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
    check_least("limit", limit, 1)
    nearest = request.query.nearest
    if request.prefetch or request.query.WhichOneof("variant") != "nearest" or nearest.WhichOneof("variant") != "dense":
        raise not_covered("queries for other than the nearest of one dense vector")
    if request.using:
        raise wrong_input(f"Not existing vector name error: {request.using}")
    vector: Any = list(nearest.dense.data)
    check_dimension(len(vector), stored.dimension)
    params, quantization = request.params, request.params.quantization
    if quantization.HasField("oversampling"):
        check_least("params.quantization.oversampling", quantization.oversampling, 1.0)
    return edge.QueryRequest(
        limit=limit,
        offset=request.offset,
        query=edge.Query.Nearest(vector),
        filter=messages.optional_filter(request),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        with_payload=messages.wanted_payload(request.with_payload),
        with_vector=messages.wanted_vectors(request.with_vectors),
        params=edge.SearchParams(
            hnsw_ef=params.hnsw_ef if params.HasField("hnsw_ef") else None,
            exact=params.exact,
            quantization=edge.QuantizationSearchParams(
                ignore=quantization.ignore,
                rescore=quantization.rescore if quantization.HasField("rescore") else None,
                oversampling=quantization.oversampling if quantization.HasField("oversampling") else None,
            ),
        ),
    )


# ---------------------------------------------------------------- snapshots


class Snapshots(pb.SnapshotsServicer):
    """Snapshots of collections: written and listed, not restored."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def Create(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        file = self._storage.snapshot(request.collection_name)
        return pb.CreateSnapshotResponse(snapshot_description=_snapshot(file))

    def List(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        files = self._storage.snapshots(request.collection_name)
        return pb.ListSnapshotsResponse(snapshot_descriptions=[_snapshot(file) for file in files])

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        check_name(request.collection_name)
        for file in self._storage.snapshots(request.collection_name):
            if file.name == request.snapshot_name:
                file.unlink()
                return pb.DeleteSnapshotResponse()
        raise Refused(grpc.StatusCode.NOT_FOUND, f"Not found: Snapshot {request.snapshot_name} not found")


def _snapshot(file: Path) -> Any:
    described = pb.SnapshotDescription(name=file.name, size=file.stat().st_size)
    described.creation_time.FromNanoseconds(file.stat().st_mtime_ns)
    return described
