"""Both kinds of stores, and a server to disturb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.settings import Settings
from tests.support.qdrant import QdrantServer


@pytest.fixture(params=["folder", "qdrant"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings that name each kind of store in turn."""
    if request.param == "folder":
        return Settings(_env_file=None, index_path=tmp_path)
    server: QdrantServer = request.getfixturevalue("qdrant_server")
    return server.settings(index_path=tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server of its own for a test that disturbs it or counts what is on it."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server
