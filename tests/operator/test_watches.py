"""Watches of an API server over HTTP, and what they do when it does not do what it should."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import kopf
import pytest
from imageindex_operator import watches
from imageindex_operator.api import login
from imageindex_operator.watches import Patience, Watches, kopf_settings
from prometheus_client import REGISTRY

from tests.operator.api_server import ApiServer
from tests.support.waiting import until

ENDED = "sightline_operator_watches_ended_total"


class Hearer:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.indexes = 0
        self.children = 0
        self.threads: set[threading.Thread] = set()

    def told(self, _body: Mapping[str, Any], *, gone: bool = False) -> None:  # noqa: ARG002
        self.indexes += 1
        self.threads.add(threading.current_thread())

    def told_of_child(self, _namespace: str, _body: Mapping[str, Any]) -> None:
        self.children += 1
        self.threads.add(threading.current_thread())


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    server = ApiServer()
    async with server.running(tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield server


@asynccontextmanager
async def heard() -> AsyncIterator[Hearer]:
    """Hears what watches tell while the context lasts; then nothing of them is left."""
    hearer = Hearer()
    watching = asyncio.create_task(Watches(hearer, []).run())
    yield hearer
    assert not watching.done()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await until(check(lambda: "watches" not in {one.name for one in threading.enumerate()}))


def test_a_watch_that_is_refused_is_tried_for_ever():
    """A right may be given back; kopf's own patience would end the operator after a minute."""
    patience = kopf_settings().networking.error_backoffs
    pauses = iter(patience)
    assert [next(pauses) for _ in range(1000)][-1] == 10
    assert isinstance(patience, Patience)
    assert not hasattr(patience, "__len__")


@pytest.mark.parametrize("code", [500, 504, 429])
async def test_an_error_within_a_watch_has_all_watches_begin_anew(server: ApiServer, code: int):
    """Once logged, once counted; and what happened meanwhile is told, because all is listed again."""
    error = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "etcd changed", "code": code}
    server.streamed["imageindexes"] = [{"type": "ERROR", "object": error}]
    before = REGISTRY.get_sample_value(ENDED) or 0
    async with heard() as hearer:
        await until(
            check(lambda: hearer.indexes == 2 and server.watched["imageindexes"] == 2 and server.watched["jobs"])
        )
        assert REGISTRY.get_sample_value(ENDED) == before + 1


async def test_a_token_that_is_replaced_is_read_again(server: ApiServer, monkeypatch: pytest.MonkeyPatch):
    """A service account's is, every hour; no watch ends for that."""
    server.tokens = ["old", "new"]
    server.streamed["imageindexes"] = [{"type": "ERROR", "object": {"kind": "Status", "code": 410}}]
    known = login()
    monkeypatch.setattr(watches, "login", lambda: replace(known, token=server.tokens[0]))
    before = REGISTRY.get_sample_value(ENDED)
    async with heard() as hearer:
        await until(check(lambda: hearer.indexes >= 2 and server.watched["imageindexes"] >= 2))
    assert REGISTRY.get_sample_value(ENDED) == before


async def test_a_token_that_is_refused_for_good_is_tried_with_pauses(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
):
    """Not as fast as it is refused."""
    server.tokens = ["good"]
    known, before = login(), REGISTRY.get_sample_value(ENDED) or 0
    logins: list[str] = []

    def log_in() -> kopf.ConnectionInfo:
        logins.append("wrong" if len(logins) < 4 else "good")
        return replace(known, token=logins[-1])

    monkeypatch.setattr(watches, "login", log_in)
    async with heard() as hearer:
        await until(check(lambda: hearer.indexes == 1))
    assert logins == [*["wrong"] * 4, "good"]
    assert (REGISTRY.get_sample_value(ENDED) or 0) == before + 2, "twice for each beginning"


async def test_events_are_told_in_the_loop_that_asked(server: ApiServer):
    """Of ImageIndexes and of children."""
    child = {"metadata": {"name": "a", "namespace": "web", "uid": "a", "labels": {"sightline.dev/imageindex": "shop"}}}
    server.streamed["jobs"] = [{"type": "ADDED", "object": child}]
    async with heard() as hearer:
        await until(check(lambda: (hearer.indexes, hearer.children) == (1, 1)))
        assert hearer.threads == {threading.current_thread()}


def check(holds: Any) -> Any:
    async def asked() -> bool:
        return bool(holds())

    return asked
