"""What only an index on a server has: a network between, a server that may be away, and settings that it keeps."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from engine.breaker import FAILURES, FIRST_REST_S, Breaker
from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexUnavailable, Overloaded
from engine.indexes import qdrant
from engine.indexes.qdrant import QdrantIndex
from engine.indexes.qdrant_connection import QdrantConnection, _lost, _retry_after_ms
from engine.indexes.qdrant_stubs import pb
from engine.ports import Hit, Point, VectorQuery
from engine.settings import Settings
from tests.support.qdrant import QdrantServer

ROWS = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
POINTS = [Point(str(uuid.UUID(int=i)), row, {"category": "ab"[i % 2]}) for i, row in enumerate(ROWS)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server of its own for a test that disturbs it."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


@pytest.fixture
async def index(server: QdrantServer) -> AsyncIterator[QdrantIndex]:
    """An index of `POINTS` on it, whose reads get two seconds."""
    index = await QdrantIndex.create("pictures", 16, server.settings(qdrant_timeout_s=2))
    await index.upsert(POINTS)
    yield index
    await index.close()


async def nearest(index: QdrantIndex, number: int) -> Hit:
    """The first hit for the vector of a point."""
    [[hit]] = await index.search([VectorQuery(ROWS[number], limit=1)])
    return hit


async def failures(index: QdrantIndex, calls: int) -> list[BaseException]:
    """What comes of so many calls at once, all of which fail."""
    errors = await asyncio.gather(*(index.count() for _ in range(calls)), return_exceptions=True)
    assert all(isinstance(error, IndexUnavailable) for error in errors)
    return [error for error in errors if isinstance(error, BaseException)]


async def described(index: QdrantIndex) -> Any:
    """What the server says of the collection."""
    request = pb.GetCollectionInfoRequest(collection_name=index.collection)
    return (await index.connection.read("Collections/Get", request)).result


# ---------------------------------------------------------------- settings


async def test_a_collection_is_made_as_the_settings_say(qdrant_server: QdrantServer):
    """Cosine, HNSW, int8 in memory, shards, replicas, consistency, payload indexes; no graphs before `optimize`."""
    settings = qdrant_server.settings(
        search_hnsw_m=24,
        search_ef_construct=99,
        search_quantile=0.75,
        qdrant_shards=3,
        qdrant_replicas=2,
        qdrant_write_consistency=2,
    )
    index = await QdrantIndex.create("as-told", 16, settings)
    found = await described(index)
    params, config = found.config.params, found.config
    assert (params.vectors_config.params.size, params.vectors_config.params.distance) == (16, pb.Cosine)
    assert (params.vectors_config.params.on_disk, params.on_disk_payload, config.hnsw_config.on_disk) == (False,) * 3
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    assert (config.hnsw_config.m, config.hnsw_config.ef_construct) == (24, 99)
    assert config.quantization_config.scalar == pb.ScalarQuantization(type=pb.Int8, quantile=0.75, always_ram=True)
    assert config.optimizer_config.indexing_threshold == 0
    assert config.strict_mode_config.unindexed_filtering_retrieve
    assert {field: info.data_type for field, info in found.payload_schema.items()} == {
        "category": pb.Keyword,
        "width": pb.Integer,
        "height": pb.Integer,
        "takenAt": pb.Datetime,
    }
    await index.close()


@pytest.mark.parametrize("url", ["http://:6334", "http://host:port", "http://host:70000"])
def test_an_address_that_is_none_is_refused(url: str):
    """The message names the setting and shows how to write it."""
    with pytest.raises(BadUserInput, match=r"QDRANT_URL.*http://host:6334"):
        QdrantConnection(Settings(_env_file=None, qdrant_url=url))


@pytest.mark.parametrize(
    ("url", "address"),
    [("http://qdrant", "qdrant:6334"), ("https://q.example:443", "q.example:443"), ("http://[::1]:9", "[::1]:9")],
)
def test_an_address_without_a_port_means_the_usual_one(url: str, address: str):
    """6334, where Qdrant speaks gRPC."""
    assert QdrantConnection(Settings(_env_file=None, qdrant_url=url)).address == address


def test_the_stubs_come_without_the_client():
    """Whoever serves from Qdrant does not wait for pydantic models of an API that nobody calls."""
    program = "import sys, engine.indexes.qdrant; print('qdrant_client' in sys.modules, 'qdrant_edge' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "False"]


def test_the_stubs_are_those_of_the_client():
    """Loaded again by their usual name, they are the same classes."""
    program = "import qdrant_client.grpc as usual; from engine.indexes.qdrant_stubs import pb; "
    program += "print(usual.PointId is pb.PointId)"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["True"]


async def test_only_what_create_made_is_opened(qdrant_server: QdrantServer):
    """A collection that is not there is not found."""
    with pytest.raises(IndexNotFound, match=r"`nothing` doesn't exist.*sightline index"):
        await QdrantIndex.open("nothing", qdrant_server.settings())


async def test_a_foreign_collection_is_not_opened(qdrant_server: QdrantServer, monkeypatch: pytest.MonkeyPatch):
    """One that compares otherwise would give wrong answers."""
    index = await QdrantIndex.create("foreign", 16, qdrant_server.settings())
    await index.close()
    monkeypatch.setattr(qdrant.pb, "Cosine", pb.Dot)
    with pytest.raises(IndexCorrupt, match="not Sightline's"):
        await QdrantIndex.open("foreign", qdrant_server.settings())


@pytest.mark.parametrize("other", [False, True])
async def test_a_collection_that_is_lost_or_replaced_while_it_serves_is_corrupt(
    qdrant_server: QdrantServer, *, other: bool
):
    """Neither the name that was asked for nor the request is at fault."""
    settings = qdrant_server.settings()
    index = await QdrantIndex.create("serving", 16, settings)
    await index.connection.drop("serving")
    if other:
        await (await QdrantIndex.create("serving", 8, settings)).close()
    with pytest.raises(IndexCorrupt, match="sightline"):
        await index.search([VectorQuery(POINTS[0].vector, limit=3)])
    await index.connection.drop("serving")
    await index.close()


# ---------------------------------------------------------------- writing and building


def test_batches_are_bounded_in_points_and_bytes(monkeypatch: pytest.MonkeyPatch):
    """In order, complete, none too large, except a point that is too large by itself."""
    monkeypatch.setattr(qdrant, "_BATCH_POINTS", 4)
    monkeypatch.setattr(qdrant, "_BATCH_BYTES", 600)
    points = [
        pb.PointStruct(id=pb.PointId(num=number), payload={"text": pb.Value(string_value="x" * size)})
        for number, size in enumerate([10] * 9 + [250] * 3 + [900] + [10] * 2)
    ]
    batches = list(qdrant._batches(points))
    assert [point for batch in batches for point in batch] == points
    assert [len(batch) for batch in batches] == [4, 4, 3, 1, 1, 2]
    assert list(qdrant._batches([])) == []


async def test_a_large_upsert_arrives_in_batches(qdrant_server: QdrantServer, monkeypatch: pytest.MonkeyPatch):
    """What one message could not hold is all there."""
    monkeypatch.setattr(qdrant, "_BATCH_BYTES", 2000)
    index = await QdrantIndex.create("large", 16, qdrant_server.settings())
    await index.upsert(POINTS)
    assert await index.count() == 300
    await index.close()


async def test_building_switches_graphs_on_and_waits(qdrant_server: QdrantServer, monkeypatch: pytest.MonkeyPatch):
    """Before it nothing is indexed, after it everything is."""
    monkeypatch.setattr(qdrant, "_GRAPH_FROM_KB", 1)
    index = await QdrantIndex.create("built", 16, qdrant_server.settings())
    await index.upsert(POINTS)
    assert (await index.info()).indexed == 0
    await index.optimize()
    assert (await index.info()).indexed == 300
    await index.close()


async def test_changed_settings_apply_from_the_next_build(qdrant_server: QdrantServer):
    """A collection that is opened with other HNSW settings is built with them."""
    index = await QdrantIndex.create("changed", 16, qdrant_server.settings())
    await index.upsert(POINTS)
    await index.optimize()
    await index.close()
    again = await QdrantIndex.open("changed", qdrant_server.settings(search_hnsw_m=8, search_quantile=0.75))
    await again.optimize()
    config = (await described(again)).config
    assert (config.hnsw_config.m, config.quantization_config.scalar.quantile) == (8, 0.75)
    assert await again.count() == 300
    await again.close()


@pytest.mark.parametrize("status", ["Yellow", "Grey"])
async def test_building_waits_until_the_server_is_done(server: QdrantServer, index: QdrantIndex, status: str):
    """As long as it says that it works, or that it waits to be told to begin."""
    server.plan(looks=4, status=status)
    await index.optimize()
    assert (await described(index)).status == pb.Green


async def test_a_failed_build_is_told_with_its_reason(server: QdrantServer, index: QdrantIndex):
    """And with what to look for."""
    await index.optimize()
    server.plan(looks=1, status="Red")
    with pytest.raises(IndexUnavailable, match=r"could not build collection 'pictures': a fault\. Look for"):
        await index.optimize()


async def test_a_build_without_progress_is_given_up(
    server: QdrantServer, index: QdrantIndex, monkeypatch: pytest.MonkeyPatch
):
    """Rather than waited for until somebody notices."""
    await index.optimize()
    monkeypatch.setattr(qdrant, "_STALL_S", 0.2)
    server.plan(looks=1_000_000)
    with pytest.raises(IndexUnavailable, match="no progress with collection 'pictures'"):
        await index.optimize()


async def test_snapshots_are_made_and_listed(index: QdrantIndex):
    """Oldest first."""
    names = [await index.connection.snapshot("pictures") for _ in range(2)]
    assert await index.connection.snapshots("pictures") == names


# ---------------------------------------------------------------- many callers


async def test_many_calls_under_way_get_their_own_answers(index: QdrantIndex):
    """They share the connections and nothing else."""
    hits = asyncio.gather(*(nearest(index, number) for number in range(200)))
    counts = asyncio.gather(*(index.count() for _ in range(20)))
    assert [hit.id for hit in await hits] == [point.id for point in POINTS[:200]]
    assert await counts == [300] * 20


async def test_a_cancelled_call_disturbs_nobody(index: QdrantIndex):
    """The calls around it are answered."""
    tasks = [asyncio.create_task(nearest(index, number)) for number in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome.id for outcome in outcomes if isinstance(outcome, Hit)] == [point.id for point in POINTS[1:30:2]]


async def test_a_closed_index_says_so(index: QdrantIndex):
    """Calls after `close` fail at once instead of connecting again."""
    await index.close()
    with pytest.raises(IndexUnavailable, match="closed"):
        await index.count()


# ---------------------------------------------------------------- a server that fails


async def test_a_server_that_is_away_is_named(server: QdrantServer):
    """With what to look at."""
    server.kill()
    with pytest.raises(IndexUnavailable, match=rf"127\.0\.0\.1:{server.port} does not answer.*QDRANT_URL.*6334"):
        await QdrantIndex.open("pictures", server.settings())
    server.start()


async def test_after_a_crash_everything_is_there_without_opening_anew(server: QdrantServer, index: QdrantIndex):
    """Calls fail while the server is away; when it is back, the same index answers, and nothing is lost."""
    await index.connection.switch_alias("current", "pictures")
    await index.connection.set_metadata("pictures", {"state": "ready"})
    server.kill()
    for call in (index.count(), nearest(index, 7), index.upsert(POINTS[:1]), index.optimize()):
        with pytest.raises(IndexUnavailable, match="does not answer"):
            await call
    server.start()
    assert (await nearest(index, 7)).id == POINTS[7].id
    assert await index.count() == 300
    assert await index.facet("category") == [("a", 150), ("b", 150)]
    assert await index.connection.alias_target("current") == "pictures"
    assert await index.connection.metadata("pictures") == {"state": "ready"}


async def test_a_crash_fails_the_calls_under_way_and_no_other(server: QdrantServer, index: QdrantIndex):
    """None of them hangs."""
    server.plan(latency_ms=3_600_000, method="Points/QueryBatch")
    waiting = [asyncio.create_task(nearest(index, number)) for number in range(20)]
    assert await index.count() == 300  # sent after them
    server.kill()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [IndexUnavailable] * 20
    server.plan()
    server.start()
    assert (await nearest(index, 3)).id == POINTS[3].id


async def test_a_slow_server_is_given_up_at_the_deadline(server: QdrantServer):
    """The error says how long was waited and which setting that is; later calls are not harmed."""
    patient = await QdrantIndex.create("slow", 16, server.settings())
    hurried = await QdrantIndex.open("slow", server.settings(qdrant_timeout_s=0.2))
    server.plan(latency_ms=3_600_000)
    with pytest.raises(IndexUnavailable, match=r"longer than 0\.2 s for Points/Count.*QDRANT_TIMEOUT_S"):
        await hurried.count()
    with pytest.raises(IndexUnavailable, match=r"longer than 1\.2 s for Points/Upsert"):
        await hurried.upsert(POINTS[:1])
    server.plan()
    assert await patient.count() == await hurried.count() == 0
    await patient.close()
    await hurried.close()


async def test_a_server_that_hangs_is_given_up_and_taken_back(server: QdrantServer):
    """It keeps its connections and answers nothing, as behind a broken network."""
    index = await QdrantIndex.create("hanging", 16, server.settings(qdrant_timeout_s=0.3))
    server.pause()
    for call in (index.count(), index.search([VectorQuery(ROWS[0], limit=1)]), index.ids(), index.info()):
        with pytest.raises(IndexUnavailable, match="longer than"):
            await call
    server.resume()
    assert await index.count() == 0
    await index.close()


async def test_a_server_that_hangs_costs_a_few_calls_their_deadline_and_the_others_nothing(server: QdrantServer):
    """One call at a time is let through, and the first that is answered ends it."""
    index = await QdrantIndex.create("resting", 16, server.settings(qdrant_timeout_s=1))
    now = 0.0
    index.connection._breaker = Breaker(lambda: now, lambda: 0.0)
    server.pause()
    assert all("longer than" in str(error) for error in await failures(index, FAILURES))
    with pytest.raises(IndexUnavailable, match=r"hangs: 5 calls in a row took longer than 1 s.*Look at its load"):
        await index.search([VectorQuery(ROWS[0], limit=1)])
    now += FIRST_REST_S
    trial, *others = await failures(index, 20)
    assert "longer than" in str(trial)
    assert all("hangs" in str(error) for error in others)
    server.resume()
    with pytest.raises(IndexUnavailable, match="hangs"):
        await index.count()  # the failed trial doubled the rest
    now += 2 * FIRST_REST_S
    assert await index.count() == 0
    assert await asyncio.gather(*(index.count() for _ in range(20))) == [0] * 20
    await index.close()


async def test_a_trial_that_nobody_waits_for_is_made_by_the_next_call(server: QdrantServer):
    """A probe that gave up early has found out nothing."""
    index = await QdrantIndex.create("probed", 16, server.settings(qdrant_timeout_s=1))
    now = 0.0
    index.connection._breaker = Breaker(lambda: now, lambda: 0.0)
    server.pause()
    await failures(index, FAILURES)
    now += FIRST_REST_S
    probe = asyncio.create_task(index.count())
    await asyncio.sleep(0)  # it has begun
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    server.resume()
    assert await index.count() == 0
    await index.close()


async def test_calls_that_are_refused_or_lost_are_no_sign_of_hanging(server: QdrantServer, index: QdrantIndex):
    """However many there are, the next call is answered."""
    for _ in range(FAILURES + 1):
        server.plan(fail=1, code="INTERNAL")
        with pytest.raises(IndexUnavailable):
            await index.count()
    server.plan()
    server.kill()
    for _ in range(FAILURES + 1):
        with pytest.raises(IndexUnavailable, match="does not answer"):
            await index.count()
    server.start()
    assert await index.count() == 300


@pytest.mark.parametrize("fault", [{"reset": 1}, {"fail": 1}])
async def test_a_lost_answer_is_asked_for_again(server: QdrantServer, index: QdrantIndex, fault: dict[str, int]):
    """Reads and writes are made once more, on another connection; nobody notices."""
    server.plan(**fault, method="Points/QueryBatch")
    assert (await nearest(index, 7)).id == POINTS[7].id
    server.plan(**fault, method="Points/Upsert")
    await index.upsert([Point(POINTS[0].id, ROWS[0], {"category": "new"})])
    assert [point.payload for point in await index.retrieve([POINTS[0].id])] == [{"category": "new"}]
    server.plan(**fault, method="Points/Delete")
    await index.delete([POINTS[0].id])
    assert await index.count() == 299


@pytest.mark.parametrize("fault", [{"reset": 2}, {"fail": 2}])
async def test_an_answer_that_is_lost_twice_is_an_error(
    server: QdrantServer, index: QdrantIndex, fault: dict[str, int]
):
    """And the next call is answered."""
    server.plan(**fault)
    with pytest.raises(IndexUnavailable, match="does not answer"):
        await index.count()
    assert await index.count() == 300


async def test_creating_is_not_tried_twice(server: QdrantServer):
    """The second attempt would meet the first one's collection, and call that an error of the caller."""
    server.plan(reset=1, method="Collections/Create")
    with pytest.raises(IndexUnavailable, match="does not answer"):
        await QdrantIndex.create("once", 16, server.settings())


@pytest.mark.parametrize(
    ("code", "details", "lost"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", True),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", True),
        (grpc.StatusCode.INTERNAL, "Service internal error: no space left", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", False),
    ],
)
def test_a_call_is_lost_only_with_its_connection(code: grpc.StatusCode, details: str, lost: bool):  # noqa: FBT001
    """Proxies reset a stream where a server would close its connection; an error of the server's own is no loss."""
    assert _lost(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)) is lost


@pytest.mark.parametrize(("told", "wait_ms"), [("3", 3000), ("0.5", 500), ("soon", 1000), (None, 1000)])
def test_who_is_limited_hears_when_to_come_back(told: str | None, wait_ms: int):
    """As long as the server says, or a second."""
    trailing = grpc.aio.Metadata() if told is None else grpc.aio.Metadata(("retry-after", told))
    error = grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailing)
    assert _retry_after_ms(error) == wait_ms


async def test_a_server_that_limits_us_is_overloaded(server: QdrantServer, index: QdrantIndex):
    """The caller hears when to come back."""
    server.plan(fail=1, code="RESOURCE_EXHAUSTED")
    with pytest.raises(Overloaded) as refusal:
        await index.count()
    assert refusal.value.retry_after_ms > 0


async def test_other_failures_carry_their_reason(server: QdrantServer, index: QdrantIndex):
    """Whatever the server says is passed on, with its status, and not tried again."""
    server.plan(fail=1, code="INTERNAL")
    with pytest.raises(IndexUnavailable, match=r"Points/Count: a fault that was asked for \(INTERNAL\)"):
        await index.count()


async def test_the_key_opens_and_is_never_told(tmp_path: Path):
    """Without it, or with another, the error names the setting; neither key is in any message or setting shown."""
    server = QdrantServer(tmp_path / "locked", api_key="open-sesame")
    server.start()
    for wrong in ("", "close-sesame"):
        with pytest.raises(IndexUnavailable, match=r"refuses the API key.*QDRANT_API_KEY") as refusal:
            await QdrantIndex.create("treasure", 16, server.settings(qdrant_api_key=wrong))
        assert "sesame" not in str(refusal.value)
    settings = server.settings(qdrant_api_key="open-sesame")
    index = await QdrantIndex.create("treasure", 16, settings)
    assert await index.count() == 0
    assert "sesame" not in repr(settings)
    await index.close()
    server.stop()
