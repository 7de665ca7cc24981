"""The stand-in refuses what the real server refuses, with its status; asked by bare stubs, without our adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine.indexes.qdrant_stubs import pb
from tests.support.qdrant import QdrantServer

INVALID, MISSING, EXISTS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """A server with the collection "there" of three dimensions, and the alias "alias" of it."""
    server = QdrantServer(tmp_path_factory.mktemp("stand-in"))
    server.start()
    call(server, "Collections/Create", collection("there"))
    call(server, "Collections/UpdateAliases", aliased("alias", "there"))
    yield server
    server.stop()


def call(server: QdrantServer, method: str, request: Any) -> Any:
    """One call on a connection of its own."""
    service, _, name = method.partition("/")
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        return getattr(getattr(pb, f"{service}Stub")(channel), name)(request, timeout=20)


def collection(name: str, **values: Any) -> Any:
    params = pb.VectorParams(size=values.pop("size", 3), distance=pb.Cosine)
    return pb.CreateCollection(collection_name=name, vectors_config=pb.VectorsConfig(params=params), **values)


def aliased(alias: str, name: str) -> Any:
    create = pb.CreateAlias(alias_name=alias, collection_name=name)
    return pb.ChangeAliases(actions=[pb.AliasOperations(create_alias=create)])


def point(id_: Any, vector: list[float]) -> Any:
    vectors = pb.Vectors(vector=pb.Vector(dense=pb.DenseVector(data=vector)))
    return pb.UpsertPoints(collection_name="there", points=[pb.PointStruct(id=id_, vectors=vectors)])


def query(vector: list[float], **values: Any) -> Any:
    nearest = pb.Query(nearest=pb.VectorInput(dense=pb.DenseVector(data=vector)))
    return pb.QueryPoints(collection_name=values.pop("name", "there"), query=nearest, **values)


def count(*conditions: Any) -> Any:
    return pb.CountPoints(collection_name="there", filter=pb.Filter(must=conditions))


ONE = pb.PointId(num=1)
REFUSED: dict[str, tuple[str, Any, grpc.StatusCode, str]] = {
    "search elsewhere": (
        "Points/Query",
        query([1, 0, 0], name="nowhere"),
        MISSING,
        "Collection `nowhere` doesn't exist",
    ),
    "look elsewhere": ("Collections/Get", pb.GetCollectionInfoRequest(collection_name="nowhere"), MISSING, "`nowhere`"),
    "no name": ("Points/Count", pb.CountPoints(), INVALID, "collection_name: value"),
    "create twice": ("Collections/Create", collection("there"), EXISTS, "Collection `there` already exists"),
    "create as an alias": ("Collections/Create", collection("alias"), INVALID, "Alias with the same name"),
    "create a path": ("Collections/Create", collection("a/b"), INVALID, "cannot contain"),
    "no dimension": ("Collections/Create", collection("new", size=0), INVALID, "size: value 0 invalid"),
    "no shard": ("Collections/Create", collection("new", shard_number=0), INVALID, "`shard_number` cannot be 0"),
    "alias to nothing": ("Collections/UpdateAliases", aliased("other", "nowhere"), MISSING, "`nowhere`"),
    "alias like a collection": ("Collections/UpdateAliases", aliased("there", "there"), EXISTS, "`there` already"),
    "no alias action": (
        "Collections/UpdateAliases",
        pb.ChangeAliases(actions=[pb.AliasOperations()]),
        INVALID,
        "Malformed AliasOperation",
    ),
    "write wrong dimension": ("Points/Upsert", point(ONE, [1, 0]), INVALID, "expected dim: 3, got 2"),
    "write no vector": ("Points/Upsert", point(ONE, []), INVALID, "expected dim: 3, got 0"),
    "write no id": ("Points/Upsert", point(None, [1, 0, 0]), INVALID, "No ID options provided"),
    "write a bad id": ("Points/Upsert", point(pb.PointId(uuid="x"), [1, 0, 0]), INVALID, "Unable to parse UUID: x"),
    "search wrong dimension": ("Points/Query", query([1, 0]), INVALID, "expected dim: 3, got 2"),
    "search for nothing": ("Points/Query", query([1, 0, 0], limit=0), INVALID, "limit: value 0 invalid"),
    "search another vector": ("Points/Query", query([1, 0, 0], using="x"), INVALID, "Not existing vector name"),
    "scroll nothing": ("Points/Scroll", pb.ScrollPoints(collection_name="there", limit=0), INVALID, "limit: value 0"),
    "facet without an index": (
        "Points/Facet",
        pb.FacetCounts(collection_name="there", key="x"),
        INVALID,
        "No appropriate index for faceting: `x`",
    ),
    "empty condition": ("Points/Count", count(pb.Condition()), INVALID, "Malformed Condition type"),
    "condition without a check": (
        "Points/Count",
        count(pb.Condition(field=pb.FieldCondition(key="x"))),
        INVALID,
        "At least one field condition",
    ),
    "field that is no path": (
        "Points/Count",
        count(pb.Condition(field=pb.FieldCondition(key="a[", match=pb.Match(integer=1)))),
        INVALID,
        "json path",
    ),
    "snapshot of nothing": (
        "Snapshots/Create",
        pb.CreateSnapshotRequest(collection_name="nowhere"),
        MISSING,
        "nowhere",
    ),
    "what is not covered": (
        "Points/ClearPayload",
        pb.ClearPayloadPoints(collection_name="there"),
        grpc.StatusCode.UNIMPLEMENTED,
        "does not cover",
    ),
}


@pytest.mark.parametrize(("method", "request_", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_real_server_refuses_is_refused(
    server: QdrantServer, method: str, request_: Any, code: grpc.StatusCode, says: str
):
    """With its status, and words like its own."""
    with pytest.raises(grpc.RpcError) as refusal:
        call(server, method, request_)
    assert isinstance(refusal.value, grpc.Call)
    assert refusal.value.code() is code
    assert says in refusal.value.details()


def test_a_failed_switch_keeps_what_came_before_the_failure(tmp_path: Path):
    """As the real server: its alias actions are applied one by one."""
    server = QdrantServer(tmp_path)
    server.start()
    call(server, "Collections/Create", collection("there"))
    call(server, "Collections/UpdateAliases", aliased("alias", "there"))
    delete = pb.AliasOperations(delete_alias=pb.DeleteAlias(alias_name="alias"))
    with pytest.raises(grpc.RpcError):
        call(
            server,
            "Collections/UpdateAliases",
            pb.ChangeAliases(actions=[delete, *aliased("alias", "nowhere").actions]),
        )
    assert list(call(server, "Collections/ListAliases", pb.ListAliasesRequest()).aliases) == []
    server.stop()
    assert json.loads((tmp_path / "aliases.json").read_bytes()) == {}


def test_dropping_what_is_not_there_changes_nothing(server: QdrantServer):
    """It is no error, and says that nothing was done."""
    assert not call(server, "Collections/Delete", pb.DeleteCollection(collection_name="nowhere")).result
