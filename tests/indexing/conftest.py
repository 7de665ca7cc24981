from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.settings import Settings
from tests.support.postgres import Postgres

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
