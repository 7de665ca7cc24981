"""What is watched, and that an event is a reason for a visit and nothing more."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import kopf
import pytest
from imageindex_operator.api import KINDS
from imageindex_operator.handlers import Operator
from imageindex_operator.names import KIND, OWNER
from imageindex_operator.reconcile import CHILDREN
from imageindex_operator.watches import Watches, kopf_settings

from engine.errors import BadUserInput
from engine.settings import Settings
from tests.operator.world import Cluster, image_index

KEY = ("web", "shop")


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def operator(cluster: Any) -> Operator:
    return Operator(Settings(_env_file=None, qdrant_url="http://127.0.0.1:6334", operator_resync_s=3600), cluster)


def resource(kind: str) -> kopf.Resource:
    group, _, version = KINDS[kind].api_version.rpartition("/")
    return kopf.Resource(group=group, version=version, plural=KINDS[kind].plural, kind=kind, preferred=True)


def test_every_kind_that_is_looked_at_is_watched(operator: Operator):
    """Otherwise its drift would be found by the resync only."""
    watched = Watches(operator, []).registry()._watching.get_all_handlers()
    for kind in (KIND, *CHILDREN):
        assert any(handler.selector.check(resource(kind)) for handler in watched), kind


def test_of_children_only_ours_are_sent_and_of_everything_else_all():
    """A cluster may have a hundred thousand ConfigMaps."""
    selectors = kopf_settings().watching.label_selectors
    assert {kind: selectors.collect(resource(kind)) for kind in (KIND, *CHILDREN)} == {
        KIND: [],
        **{kind: [OWNER] for kind in CHILDREN},
    }


def test_kopf_writes_nothing(operator: Operator):
    """Neither annotations nor finalizers: it only has handlers of events."""
    registry = Watches(operator, []).registry()
    for kind in (KIND, *CHILDREN):
        assert not registry._changing.has_handlers(resource(kind))
        assert not registry._spawning.has_handlers(resource(kind))
    assert kopf_settings().posting.enabled is False


def test_events_of_a_resource_and_of_its_children_ask_for_its_visit(operator: Operator):
    """One is enough for many."""
    body = image_index()
    operator.told(body)
    assert set(operator._queue._due) == {KEY}
    operator._queue._due.clear()
    operator.told_of_child("web", {"metadata": {"labels": {OWNER: "shop"}}})
    operator.told_of_child("web", {"metadata": {}})
    assert set(operator._queue._due) == {KEY}


def test_when_the_owner_of_an_alias_goes_the_next_in_line_is_visited(operator: Operator):
    """It waited for this."""
    other = image_index("other", collection={"alias": "shop"})
    operator.told(image_index())
    operator.told(other)
    operator._queue._due.clear()
    operator.told(image_index(), gone=True)
    assert ("web", "other") in operator._queue._due


async def test_a_change_that_no_watch_told_of_is_visited(operator: Operator, cluster: Cluster):
    """Long before the resync."""
    cluster.put(image_index())
    listed = asyncio.Event()
    plain = operator._watchdog.listed

    def notice(bodies: Any) -> None:
        plain(bodies)
        listed.set()

    operator._watchdog.listed = notice  # type: ignore[method-assign]
    task = asyncio.create_task(operator._resync())
    await listed.wait()
    await asyncio.sleep(0)
    assert KEY in operator._queue._due
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_without_qdrant_it_does_not_start(cluster: Any):
    """Pods would have nothing to search."""
    with pytest.raises(BadUserInput, match="QDRANT_URL"):
        Operator(Settings(_env_file=None), cluster)
