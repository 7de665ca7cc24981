"""The ledger's tables from version to version, with data in them, on both databases."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from engine.errors import BadUserInput, LedgerUnavailable
from engine.settings import Settings
from indexing import migrations
from indexing.database import Database
from indexing.ledger import FILE, Build, Ledger, Row
from indexing.migrations import HEAD, __main__
from indexing.schema import METADATA
from tests.support.postgres import Postgres

NAME = "pets"

# As the first release wrote it, copied from a file that it made.
RELEASED = """
CREATE TABLE items (
	generation VARCHAR NOT NULL, "key" VARCHAR NOT NULL, size BIGINT NOT NULL, mtime_ns BIGINT NOT NULL,
	stamp VARCHAR NOT NULL, id VARCHAR NOT NULL, state VARCHAR NOT NULL, content_hash VARCHAR, reason VARCHAR,
	detail VARCHAR, width INTEGER, height INTEGER, PRIMARY KEY (generation, "key")
);
CREATE TABLE builds (
	generation VARCHAR NOT NULL, base VARCHAR, requested_model VARCHAR NOT NULL, source VARCHAR NOT NULL,
	promoted BOOLEAN NOT NULL, PRIMARY KEY (generation)
);
CREATE TABLE runs (
	id INTEGER NOT NULL, source VARCHAR NOT NULL, started VARCHAR NOT NULL, finished VARCHAR, outcome VARCHAR,
	generation VARCHAR, indexed INTEGER, unchanged INTEGER, skipped INTEGER, deleted INTEGER, PRIMARY KEY (id)
);
INSERT INTO items VALUES ('g1', 'a.png', 5, 6, 's', 'i', 'indexed', 'h', NULL, NULL, 4, 3);
INSERT INTO items VALUES ('g1', 'in/é.png', 7, 8, 't', 'j', 'skipped', NULL, 'corrupt', 'why', NULL, NULL);
INSERT INTO items VALUES ('g0', 'a.png', 1, 2, 's', 'i', 'indexed', 'h', NULL, NULL, 4, 3);
INSERT INTO builds VALUES ('g0', NULL, 'model', '/in', 1);
INSERT INTO builds VALUES ('g1', 'g0', 'model', '/in', 0);
INSERT INTO runs VALUES (1, '/in', '2026-01-01T00:00:00Z', '2026-01-01T00:00:09Z', 'done', 'g0', 1, 0, 0, 0);
INSERT INTO runs VALUES (2, '/in', '2026-01-02T00:00:00Z', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""
ROWS = [
    Row("a.png", 5, 6, "s", "i", "indexed", "h", None, None, 4, 3, path="/in/a.png"),
    Row("in/é.png", 7, 8, "t", "j", "skipped", None, "corrupt", "why", path="/in/in/é.png"),
]
BUILDS = [Build("g0", None, "model", "/in", promoted=True), Build("g1", "g0", "model", "/in", promoted=False)]


@pytest.fixture
def database(catalogue: Settings) -> Iterator[Database]:
    """A database without tables, of each kind in turn."""
    file = catalogue.index_path / NAME / FILE
    file.parent.mkdir(parents=True)
    opened = Database.named(catalogue, file)
    yield opened
    opened.close()


def dump(database: Database) -> dict[str, Any]:
    """All tables' columns and rows, without when rows were written."""
    found: dict[str, Any] = {}
    for table in ("items", "builds", "runs"):
        query = text(f"SELECT * FROM {table}")  # noqa: S608 - of this file
        rows = database.read(lambda connection, query=query: connection.execute(query).mappings().all())
        found[table] = sorted(sorted((name, str(value)) for name, value in row.items()) for row in rows)
    return found


def fill(database: Database) -> None:
    """What the released file holds, by way of a ledger."""
    ledger = Ledger(database, NAME)
    for build in BUILDS:
        ledger.adopt(Build(build.generation, None, build.requested_model, build.source, promoted=build.promoted))
        ledger.record(build.generation, ROWS)
    ledger.end_run(ledger.start_run("/in"), "done", generation="g0", indexed=1)
    ledger.start_run("/in")


def test_the_code_knows_the_newest_version(tmp_path: Path):
    """The version it compares with is the last of the folder, and there is one way to it."""
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_heads() == [HEAD]
    assert tmp_path


def test_migrations_make_the_tables_that_the_code_uses(database: Database):
    """Column for column and index for index."""
    migrations.upgrade(database, NAME)

    def differences(connection: Any) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))

    assert database.read(differences) == []


def test_keys_sort_by_code_point_in_the_database_itself(database: Database):
    """Also for people who ask it in SQL."""
    fill(database)
    ledger = Ledger(database, NAME)
    keys = ["B.png", "a b.png", "a.png", "ab.png", "\u00e9.png"]
    ledger.record("g0", [Row(key, 1, 1, "s", key, "indexed") for key in keys])
    query = text("SELECT key FROM items WHERE generation = 'g0' ORDER BY key")
    found = database.read(lambda connection: connection.execute(query).scalars().all())
    assert found == sorted({*keys, *(row.key for row in ROWS)})


def test_an_open_ledger_does_not_need_alembic(database: Database):
    """Tables of the right version are recognized without importing it, which would take longer than all the rest."""
    migrations.upgrade(database, NAME)
    if database.dialect == "sqlite":
        code = (
            "import sys; from sqlalchemy import URL; from indexing.database import Database; "
            "from indexing.ledger import Ledger; "
            f"ledger = Ledger(Database(URL.create('sqlite', database={database.where!r})), 'pets'); ledger.close(); "
            "print([name for name in ('alembic', 'psycopg', 'mako') if name in sys.modules])"
        )
        told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert told.stdout == "[]\n"
    assert database.read(migrations.version) == HEAD


def test_down_and_up_keeps_files_generations_and_runs(database: Database):
    """What an older version has no column for goes; everything that it has one for is there again."""
    fill(database)
    migrations.downgrade(database, "0001")
    old = dump(database)
    assert [len(old[table]) for table in ("items", "builds", "runs")] == [4, 2, 2]
    assert database.read(migrations.version) == "0001"
    migrations.downgrade(database, "0001")
    assert dump(database) == old
    ledger = Ledger(database, NAME)
    assert list(ledger.rows("g1", whole=True)) == ROWS
    assert [build.promoted for build in ledger.builds()] == [True, False]
    assert [(run.outcome, run.indexed) for run in ledger.runs()] == [("done", 1), (None, None)]
    migrations.downgrade(database, "0001")
    assert dump(database) == old


def test_a_downgrade_that_would_mix_indexes_is_refused(database: Database):
    """The first version has one index in a database; nothing is changed."""
    fill(database)
    Ledger(database, "cars").start_run("/in")
    before = dump(database)
    with pytest.raises(BadUserInput, match="cars, pets"):
        migrations.downgrade(database, "0001")
    assert dump(database) == before
    with pytest.raises(BadUserInput, match=r"no version '9'.*0001, 0002"):
        migrations.downgrade(database, "9")


def test_a_migration_that_fails_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch):
    """Not even on the way from the first version, where tables are renamed and filled anew."""
    fill(database)
    migrations.downgrade(database, "0001")
    before = dump(database)
    monkeypatch.setattr("sqlalchemy.schema.CreateIndex.__init__", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        migrations.upgrade(database, NAME)
    monkeypatch.undo()
    assert dump(database) == before
    assert list(Ledger(database, NAME).rows("g1", whole=True)) == ROWS


def test_tables_of_a_newer_sightline_are_left_alone(database: Database):
    """The error says what to do."""
    fill(database)
    database.write(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '0099'")))
    before = dump(database)
    with pytest.raises(LedgerUnavailable, match=r"'0099'.*newer Sightline"):
        Ledger(database, NAME)
    assert dump(database) == before


# ---------------------------------------------------------------- SQLite files of the first release


def released(folder: Path) -> Path:
    """A ledger that the first release made."""
    file = folder / NAME / FILE
    file.parent.mkdir(parents=True)
    with sqlite3.connect(file) as connection:
        connection.executescript(RELEASED)
    connection.close()
    return file


def test_a_file_of_the_first_release_is_brought_up_to_date(tmp_path: Path):
    """It does not say its version. Its rows become those of its index, and where each file lies is filled in."""
    released(tmp_path)
    ledger = Ledger.open(Settings(index_path=tmp_path), NAME)
    assert list(ledger.rows("g1", whole=True)) == ROWS
    assert ledger.builds() == BUILDS
    assert [(run.id, run.outcome) for run in ledger.runs()] == [("1", "done"), ("2", None)]
    assert list(ledger.only_in(["g0", "g1"])) == [["h"]]
    ledger.close()


def test_a_file_goes_back_to_the_first_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The command leaves the very tables that the first release knows, with their rows."""
    file = released(tmp_path)
    with sqlite3.connect(file) as connection:
        before = list(connection.iterdump())
    connection.close()
    Ledger.open(Settings(index_path=tmp_path), NAME).close()
    monkeypatch.setattr(__main__, "settings", lambda: Settings(index_path=tmp_path))
    assert __main__.main(["0001", NAME]) == 0
    assert "0001" in capsys.readouterr().out
    with sqlite3.connect(file) as connection:
        after = [line for line in connection.iterdump() if "alembic_version" not in line]
    connection.close()
    assert sorted(filter(is_row, after)) == sorted(filter(is_row, before))
    assert __main__.main(["0001", "nowhere"]) == 1
    assert "no ledger" in capsys.readouterr().err


def is_row(line: str) -> bool:
    """Whether a line of a dump is a row."""
    return line.startswith("INSERT")


# ---------------------------------------------------------------- PostgreSQL


@pytest.mark.programs
def test_tables_of_another_program_are_left_alone(postgresql: Settings, postgres: Postgres):
    """A database with a table of the same name is not Sightline's."""
    address = postgresql.index_database_url.get_secret_value()
    postgres.run("CREATE TABLE items (n int)", address.rsplit("/", 1)[1])
    with pytest.raises(LedgerUnavailable, match="not Sightline's"):
        Ledger.open(postgresql, NAME)


@pytest.mark.programs
def test_a_schema_of_its_own_is_enough(postgresql: Settings, postgres: Postgres):
    """The address may name a schema beside another program's tables."""
    address = postgresql.index_database_url.get_secret_value()
    name = address.rsplit("/", 1)[1]
    postgres.run("CREATE TABLE items (n int)", name)
    postgres.run("CREATE SCHEMA sightline", name)
    own = Settings(index_database_url=f"{address}?options=-csearch_path%3Dsightline")
    ledger = Ledger.open(own, NAME)
    ledger.adopt(BUILDS[0])
    ledger.close()
    assert postgres.run("SELECT count(*) FROM sightline.builds", name) == [(1,)]


@pytest.mark.programs
def test_a_database_that_cannot_hold_every_name_is_refused(postgres: Postgres, tmp_path: Path):
    """Its encoding has to be UTF-8."""
    postgres.run("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    with pytest.raises(LedgerUnavailable, match="UTF8"):
        Ledger.open(Settings(index_path=tmp_path, index_database_url=postgres.url("latin")), NAME)
    postgres.drop("latin")
