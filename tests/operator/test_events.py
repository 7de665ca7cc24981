"""Events: posted aside, counted when they repeat, dropped rather than waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from imageindex_operator import events
from imageindex_operator.actions import Note
from imageindex_operator.events import Recorder
from imageindex_operator.resource import ImageIndex

from engine.errors import ClusterUnavailable
from tests.operator.world import BEGAN, Cluster, image_index

SHOP = ImageIndex.parse(image_index())
NOTE = Note("ShardsFailed", "shards 2 failed", warning=True)


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


@contextlib.asynccontextmanager
async def recording(cluster: Any) -> AsyncIterator[Recorder]:
    recorder = Recorder(cluster, lambda: BEGAN)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
        async with asyncio.timeout(20):
            await recorder.drained()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_note_becomes_an_event_of_the_resource(cluster: Cluster):
    """Where kubectl describe shows it."""
    async with recording(cluster) as recorder:
        recorder.note(SHOP, NOTE)
    ((_, event),) = cluster.objects.items()
    assert event["type"] == "Warning"
    assert event["reason"] == "ShardsFailed"
    assert event["involvedObject"]["uid"] == SHOP.uid
    assert event["count"] == 1


async def test_the_same_note_again_is_counted_also_by_the_next_operator(cluster: Cluster):
    """One Event, not a thousand."""
    for _ in range(2):
        async with recording(cluster) as recorder:
            for _ in range(3):
                recorder.note(SHOP, NOTE)
    ((_, event),) = cluster.objects.items()
    assert event["count"] == 6


async def test_an_event_that_has_expired_is_made_again(cluster: Cluster):
    """Kubernetes keeps them for an hour."""
    async with recording(cluster) as recorder:
        recorder.note(SHOP, NOTE)
        await recorder.drained()
        cluster.objects.clear()
        recorder.note(SHOP, NOTE)
    ((_, event),) = cluster.objects.items()
    assert event["count"] == 1


async def test_an_api_that_hangs_delays_nobody_and_is_left_after_a_while(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """The next one is tried all the same."""
    plain, hung = cluster.create, asyncio.Event()

    async def hang(manifest: Any) -> Any:
        if not hung.is_set():
            hung.set()
            await asyncio.Event().wait()
        return await plain(manifest)

    monkeypatch.setattr(cluster, "create", hang)
    monkeypatch.setattr(events, "_TIMEOUT_S", 0.05)
    async with recording(cluster) as recorder:
        recorder.note(SHOP, NOTE)
        recorder.note(SHOP, Note("Promoted", "it serves"))
    assert [event["reason"] for event in cluster.objects.values()] == ["Promoted"]


async def test_an_api_that_is_away_and_a_full_queue_drop_events(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """Rather than memory or a visit."""

    async def away(_: Any) -> None:
        raise ClusterUnavailable("away")

    monkeypatch.setattr(cluster, "create", away)
    recorder = Recorder(cluster, lambda: BEGAN)  # type: ignore[arg-type]
    for number in range(events._WAITING + 5):
        recorder.note(SHOP, Note("Promoted", str(number)))
    assert recorder._queue.qsize() == events._WAITING
