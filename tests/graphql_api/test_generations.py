"""A server whose index is on a Qdrant server: it follows promotions, and outlives the other's absence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.generations import generations_of
from engine.settings import Settings
from graphql_api.app import create_app
from tests.engine.conftest import built
from tests.graphql_api.live import Api, eventually, run_server
from tests.support.encoders import PALETTE, WordEncoder
from tests.support.qdrant import QdrantServer

SEARCH = "query($q: String!) { search(query: $q, first: 3) { totalCount { value } execution { generation } } }"
HEALTH = "{ health { indexReachable encoderLoaded } indexes { name ready reason points } }"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A Qdrant server of its own."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


@pytest.fixture
def settings(server: QdrantServer, tmp_path: Path) -> Settings:
    """Settings that name it, and a folder that nobody makes."""
    return server.settings(index_path=tmp_path / "none", qdrant_timeout_s=2)


def promote(settings: Settings, folder: Path, count: int) -> str:
    """What `sightline index` does in another process: builds a generation of so many pictures, which then serves."""

    async def work() -> str:
        async with generations_of(settings.model_copy(update={"index_path": folder}), "default") as store:
            generation = await built(store, [f"{name} car" for name in list(PALETTE)[:count]], WordEncoder())
            return (await store.promote(generation.id)).id

    return asyncio.run(work())


def answered(api: Api, query: str) -> tuple[str, int]:
    """The generation that answers, and how many pictures it has."""
    found = api.data(SEARCH, q=query)["search"]
    return found["execution"]["generation"], found["totalCount"]["value"]


def test_a_server_follows_promotions(settings: Settings, tmp_path: Path):
    """Without being told, and without a folder of its own."""
    first = promote(settings, tmp_path / "builder", 3)
    with run_server(create_app(settings, WordEncoder())) as api:
        assert answered(api, "red") == (first, 3)
        second = promote(settings, tmp_path / "builder", 5)
        eventually(lambda: answered(api, "red") == (second, 5))
        assert api.data(HEALTH) == {
            "health": {"indexReachable": True, "encoderLoaded": True},
            "indexes": [{"name": "default", "ready": True, "reason": None, "points": 5}],
        }
    assert not settings.index_path.exists()


def test_a_qdrant_server_that_is_away_is_an_error_until_it_is_back(
    settings: Settings, server: QdrantServer, tmp_path: Path
):
    """Searches say so by their code, health does too; nothing has to be started again."""
    first = promote(settings, tmp_path / "builder", 3)
    with run_server(create_app(settings, WordEncoder())) as api:
        assert answered(api, "red") == (first, 3)
        server.kill()
        error = api.error(SEARCH, q="blue")
        assert error["extensions"]["code"] == "INDEX_UNAVAILABLE"
        assert api.data("{ health { indexReachable } }") == {"health": {"indexReachable": False}}
        server.start()
        assert answered(api, "blue") == (first, 3)
        second = promote(settings, tmp_path / "builder", 4)
        eventually(lambda: answered(api, "blue") == (second, 4))
