from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.generations import Generation, generations_of
from engine.ports import Encoder, Point
from engine.settings import Settings
from indexing.pipeline import index
from indexing.report import Report
from indexing.sharding import Shard
from indexing.sources import FolderSource
from indexing.together import finish, index_shard
from tests.support.encoders import WordEncoder
from tests.support.pictures import paint_many
from tests.support.postgres import Postgres
from tests.support.progress import Silent
from tests.support.qdrant import QdrantServer

NAME = "pets"
MEMORY = Path("/dev/shm")  # noqa: S108 - a place for the disk's work, not for secrets
ENOUGH = 2 * 2**30


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is enough, because an index is flushed to its disk again and again."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH
    with tempfile.TemporaryDirectory(prefix="sightline-tests-", dir=MEMORY if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for all tests; each takes a database of its own."""
    with Postgres() as server:
        yield server


@pytest.fixture
def postgresql(postgres: Postgres, tmp_path: Path) -> Iterator[Settings]:
    """Settings that name a new PostgreSQL database."""
    name = postgres.create()
    yield Settings(index_path=tmp_path / "data", index_database_url=postgres.url(name))
    postgres.drop(name)


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.programs)])
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with a new database for the ledger, of each kind in turn."""
    if request.param == "SQLite":
        return Settings(index_path=tmp_path / "data")
    chosen: Settings = request.getfixturevalue("postgresql")
    return chosen


class Steps(Silent):
    """A progress display that remembers files, and does something at a stage."""

    def __init__(self, at: str = "", what: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._at, self._what = at, what

    def stage(self, name: str) -> None:
        """Does it, once."""
        if name == self._at:
            self._at = ""
            self._what()


class Place:
    """A source folder, and settings for an index of it."""

    def __init__(self, settings: Settings, source: Path) -> None:
        self.settings = settings
        self.source = source
        self.steps = Steps()

    async def run(self, steps: Steps | None = None, *, promote: bool = True, **settings: Any) -> Report:
        """Indexes it; `settings` are changed for this run."""
        self.steps = steps or Steps()
        return await index(
            FolderSource(self.source),
            settings=self.settings.model_copy(update=settings),
            encoder_factory=WordEncoder,
            index_name=NAME,
            progress=self.steps,
            promote=promote,
        )

    async def work(
        self,
        shard: Shard,
        generation: str,
        steps: Steps | None = None,
        encoder: Callable[[], Encoder] = WordEncoder,
        source: Path | None = None,
    ) -> Report:
        """Does one shard of it."""
        self.steps = steps or Steps()
        return await index_shard(
            FolderSource(source or self.source),
            shard,
            generation,
            settings=self.settings,
            encoder_factory=encoder,
            index_name=NAME,
            progress=self.steps,
        )

    async def finish(self, generation: str, steps: Steps | None = None, *, promote: bool = True) -> Report:
        """Completes what workers have filled."""
        self.steps = steps or Steps()
        return await finish(
            generation,
            settings=self.settings,
            encoder_factory=WordEncoder,
            index_name=NAME,
            progress=self.steps,
            promote=promote,
        )

    async def list(self) -> list[Generation]:
        """All generations."""
        async with generations_of(self.settings, NAME) as store:
            return await store.list()

    async def serving(self) -> tuple[str, dict[str, Point]]:
        """The id of what serves, and its points by key."""
        async with generations_of(self.settings, NAME) as store:
            current = await store.current()
            assert current is not None
            opened = await store.open_index(current)
            points = await opened.retrieve(await opened.ids(), vectors=True)
            await opened.close()
            return current.id, {point.payload["objectKey"]: point for point in points}

    def canary(self, **wanted: Any) -> Path:
        """A file of one canary."""
        file = self.source.parent / "canaries.json"
        file.write_text(json.dumps([wanted]))
        return file


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A Qdrant server of its own."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


@pytest.fixture(params=["folder", "qdrant"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Six pictures, no index yet, and each kind of store in turn."""
    settings = Settings(_env_file=None, index_path=tmp_path / "data", index_workers=1, index_batch_size=2)
    if request.param == "qdrant":
        server: QdrantServer = request.getfixturevalue("server")
        settings = settings.model_copy(update={"qdrant_url": server.settings().qdrant_url})
    (tmp_path / "source").mkdir()
    paint_many(tmp_path / "source", 6)
    return Place(settings, tmp_path / "source")
