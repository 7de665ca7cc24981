"""`sightline check`: a yes for what works, a precise no for what does not, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import sightline
from engine.conformance.cache import CACHE
from engine.conformance.vector_index import READING, WRITING
from engine.settings import settings
from indexing.conformance.ledger import CHECKS
from tests.support.postgres import PASSWORD, Postgres
from tests.support.qdrant import QdrantServer
from tests.support.redis import RedisServer

ROOT = Path(__file__).parents[1]
NOWHERE = "127.0.0.1:9"
SETTINGS = ("QDRANT_URL", "REDIS_URL", "INDEX_DATABASE_URL")


def run(monkeypatch: pytest.MonkeyPatch, named: Mapping[str, str], *words: str) -> tuple[int, str]:
    """Exit status and output of the command with these settings."""
    for name in SETTINGS:
        monkeypatch.setenv(name, named.get(name, ""))
    monkeypatch.setenv("REDIS_TIMEOUT_MS", "20000")
    settings.cache_clear()
    try:
        result = CliRunner().invoke(sightline.app, ["check", *words])
    finally:
        settings.cache_clear()
    return result.exit_code, result.stdout


def verdicts(monkeypatch: pytest.MonkeyPatch, named: Mapping[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and every verdict of `--json`, whose shape is checked."""
    code, output = run(monkeypatch, named, "--json")
    told = json.loads(output)
    assert set(told) == {"holds", "checks"}
    assert all(set(check) == {"part", "check", "holds", "reason"} for check in told["checks"])
    assert all(check["holds"] == (check["reason"] == "") for check in told["checks"])
    assert told["holds"] == all(check["holds"] for check in told["checks"])
    assert code == (0 if told["holds"] else 1)
    return code, told["checks"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a `.env` file, whoever runs the tests."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[QdrantServer]:
    """A stand-in of its own, to see what is left on it."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


# ---------------------------------------------------------------- without servers, and without Redis and PostgreSQL


def test_without_servers_everything_is_embedded(monkeypatch: pytest.MonkeyPatch):
    """That is no failure, and the settings that name servers are told."""
    code, output = run(monkeypatch, {})
    told = " ".join(output.split())
    assert (code, "Nothing to check" in told) == (0, True)
    assert all(f"{name} is empty" in told for name in SETTINGS)
    assert verdicts(monkeypatch, {}) == (0, [])


def test_without_servers_no_client_is_loaded(tmp_path: Path):
    """Each takes time to load."""
    program = (
        "import sys\n"
        "import sightline\n"
        "try:\n"
        "    sightline.app(['check'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end\n"
        "assert not {'grpc', 'redis', 'sqlalchemy', 'psycopg'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | dict.fromkeys(SETTINGS, "")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=120)


def test_a_qdrant_that_keeps_every_promise_gets_a_yes(qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch):
    """Each behaviour is one line; the exit status is 0; the collections that were made are gone."""
    code, checks = verdicts(monkeypatch, {"QDRANT_URL": f"http://127.0.0.1:{qdrant.port}"})
    assert [check for check in checks if not check["holds"]] == []
    assert code == 0
    assert len(checks) >= 2 * len(READING) + len(WRITING) + 4
    assert {check["part"] for check in checks} == {"Qdrant"}
    assert "filters admit what the reference admits, once built" in [check["check"] for check in checks]
    assert list((qdrant.data / "collections").iterdir()) == []


def test_servers_that_are_away_get_a_no_each(monkeypatch: pytest.MonkeyPatch):
    """One line in the table, that says why, and exit status 1; no password is shown."""
    named = {
        "QDRANT_URL": f"http://{NOWHERE}",
        "REDIS_URL": f"redis://:hunter2@{NOWHERE}/0",
        "INDEX_DATABASE_URL": f"postgresql://someone:hunter2@{NOWHERE}/pictures",
    }
    code, output = run(monkeypatch, named)
    assert (code, "0 of 3 hold" in output, "is empty" in output) == (1, True, False)
    assert output.count("can be reached") == 3
    assert "hunter2" not in output
    _, checks = verdicts(monkeypatch, named)
    assert [check["part"] for check in checks] == ["Qdrant", "Redis", "PostgreSQL"]
    for check, words in zip(checks, ("does not answer", "can't be reached", "does not answer"), strict=True):
        assert words in check["reason"]


def test_addresses_that_can_not_be_one_get_a_no_each(monkeypatch: pytest.MonkeyPatch):
    """One wrong setting does not hide the others."""
    named = {"REDIS_URL": "http://:hunter2@there", "INDEX_DATABASE_URL": "mysql://:hunter2@there"}
    _, checks = verdicts(monkeypatch, named)
    assert ["REDIS_URL" in checks[0]["reason"], "INDEX_DATABASE_URL" in checks[1]["reason"]] == [True, True]
    assert not any("hunter2" in check["reason"] for check in checks)


# ---------------------------------------------------------------- all of production


class Production(NamedTuple):
    """One server of each kind."""

    qdrant: QdrantServer
    redis: RedisServer
    postgres: Postgres
    database: str

    def named(self, **others: str) -> dict[str, str]:
        """The settings that name them, some of them replaced."""
        return {
            "QDRANT_URL": f"http://127.0.0.1:{self.qdrant.port}",
            "REDIS_URL": self.redis.url,
            "INDEX_DATABASE_URL": self.postgres.url(self.database),
        } | others

    def left(self) -> list[object]:
        """What is in the servers: collections, keys, rows."""
        left: list[object] = [path.name for path in (self.qdrant.data / "collections").iterdir()]
        left += self.redis.stored()
        for table in ("items", "builds", "runs"):
            left += self.postgres.run(f"SELECT * FROM {table}", self.database)  # noqa: S608 - of the line above
        return left


@pytest.fixture
def production(qdrant: QdrantServer, tmp_path: Path) -> Iterator[Production]:
    """The stand-in for Qdrant, a real Redis and a real PostgreSQL."""
    with RedisServer(tmp_path) as redis, Postgres() as postgres:
        yield Production(qdrant, redis, postgres, postgres.create())


def no(checks: list[dict[str, Any]], part: str) -> dict[str, str]:
    """What does not hold, and why; nothing of it may be of another part."""
    broken = [check for check in checks if not check["holds"]]
    assert {check["part"] for check in broken} <= {part}
    return {check["check"]: check["reason"] for check in broken}


@pytest.mark.programs
def test_all_of_production_gets_a_yes_and_what_breaks_gets_a_no(
    production: Production, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Then a Redis that only reads, a wrong password for PostgreSQL and no Qdrant: each a no that says it, alone.

    Qdrant, which takes longest, is whole in the first run and left out until it is away in the last.
    """
    code, checks = verdicts(monkeypatch, production.named())
    assert (code, no(checks, "none")) == (0, {})
    parts = [check["part"] for check in checks]
    assert list(dict.fromkeys(parts)) == ["Qdrant", "Redis", "PostgreSQL"]
    assert (parts.count("Redis"), parts.count("PostgreSQL")) == (len(CACHE) + 3, len(CHECKS))
    assert production.left() == []

    with RedisServer(tmp_path, "--replicaof", "127.0.0.1", str(production.redis.port)) as replica:
        code, checks = verdicts(monkeypatch, production.named(QDRANT_URL="", REDIS_URL=replica.url))
        told = no(checks, "Redis")
        assert (code, len(told)) == (1, len(CACHE))
        assert all(reason.startswith("READONLY") for reason in told.values())

    wrong = production.postgres.url(production.database, "not-it")
    code, checks = verdicts(monkeypatch, production.named(QDRANT_URL="", INDEX_DATABASE_URL=wrong))
    told = no(checks, "PostgreSQL")
    assert (code, list(told)) == (1, ["can be reached"])
    assert "authentication failed" in told["can be reached"]
    assert not any(secret in told["can be reached"] for secret in ("not-it", PASSWORD))

    production.qdrant.kill()
    code, checks = verdicts(monkeypatch, production.named())
    told = no(checks, "Qdrant")
    assert (code, list(told)) == (1, ["can be reached"])
    assert "does not answer" in told["can be reached"]
    assert production.left() == []
