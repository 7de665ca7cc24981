"""The ledger on SQLite and on a real PostgreSQL: one contract, and what goes wrong with servers and workers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import make_url

from engine.errors import BadUserInput, IndexUnavailable, LedgerUnavailable
from engine.settings import Settings
from indexing.conformance.ledger import CHECKS, Check, scratch
from indexing.database import Database
from indexing.ledger import Build, Ledger, Row
from tests.support.postgres import PASSWORD, USER, Postgres

NAME = "pets"
GENERATION = "20260101-000000-000000-0000"


def picture(key: str, mark: str = "0") -> Row:
    """A row that says `mark` in several places."""
    return Row(key, 1, int(mark), mark, f"id of {key}", "indexed", mark * 64, None, None, 4, 3, metadata={"mark": mark})


def begin(ledger: Ledger) -> None:
    """Begins the generation that these tests write to."""
    ledger.adopt(Build(GENERATION, None, "model", "/in", promoted=False))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, catalogue: Settings):
    """What a ledger must do, on both databases; `sightline check` asks the same."""
    with scratch(catalogue) as ledgers:
        check(*ledgers)


def test_a_check_leaves_nothing(catalogue: Settings):
    """Also one that failed: what it wrote is gone."""
    with suppress(KeyError), scratch(catalogue) as ledgers:
        begin(ledgers[0])
        raise KeyError
    (catalogue.index_path / NAME).mkdir(parents=True)
    database = Database.named(catalogue, catalogue.index_path / NAME / "ledger.sqlite")
    ledger = Ledger(database, NAME)
    for table in ("items", "builds", "runs"):
        assert database.read(lambda connection, table=table: count(connection, table)) == 0
    ledger.close()


def test_no_check_passes_by_itself(catalogue: Settings):
    """Each of them fails on a ledger that forgets what it is told."""

    class Forgetful(Ledger):
        """Records nothing, begins nothing."""

        def record(self, generation: str, rows: Any) -> None:
            """Nothing."""

        def adopt(self, build: Build) -> None:
            """Nothing."""

        def end_run(self, run: str, outcome: str, **facts: Any) -> None:
            """Nothing."""

        def note_problems(self, *_: Any, **__: Any) -> None:
            """Nothing."""

    for check in CHECKS:
        with scratch(catalogue) as ledgers:
            for ledger in ledgers:
                ledger.__class__ = Forgetful
            with pytest.raises(AssertionError):
                check(*ledgers)


def count(connection: Any, table: str) -> int:
    """The rows of a table."""
    return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar())  # noqa: S608 - of this file


# ---------------------------------------------------------------- several workers

WORKER = """
import sys
from pathlib import Path
from pydantic import SecretStr
from engine.settings import Settings
from indexing.ledger import Build, Ledger, Row

url, folder, mark = sys.argv[1:]
settings = Settings(index_path=Path(folder), index_database_url=SecretStr(url))
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
ledger = Ledger.open(settings, "pets")
ledger.adopt(Build("g", None, "model", "/in", promoted=False))
keys = [f"{number:04}.png" for number in range(400)]
for start in range(0, 400, 50):
    part = keys[start : start + 50]
    ledger.record("g", [Row(key, 1, 2, "stamp", key, "indexed", key) for key in (part if mark == "0" else part[::-1])])
ledger.close()
"""


def test_processes_that_start_at_once_make_one_ledger(catalogue: Settings):
    """Each opens a database without tables and records the same files: one schema, and every file once."""
    folder = catalogue.index_path
    (folder / NAME).mkdir(parents=True)
    url = catalogue.index_database_url.get_secret_value()
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, url, str(folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            text=True,
        )
        for number in range(3)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        told, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0, told
    ledger = Ledger.open(catalogue, NAME)
    assert [row.key for row in ledger.rows("g")] == [f"{number:04}.png" for number in range(400)]
    assert len(ledger.builds()) == 1
    ledger.close()


def test_closing_waits_for_what_threads_are_at(catalogue: Settings):
    """A batch that is being recorded is recorded; no connection is cut off under it."""
    (catalogue.index_path / NAME).mkdir(parents=True)
    ledger = Ledger.open(catalogue, NAME)
    inside, go_on = threading.Event(), threading.Event()

    def slow(connection: Any) -> int:
        inside.set()
        assert go_on.wait(60)
        return int(connection.exec_driver_sql("SELECT 7").scalar())

    with ThreadPoolExecutor(2) as threads:
        found = threads.submit(ledger._database.read, slow)
        assert inside.wait(60)
        closed = threads.submit(ledger.close)
        assert not closed.done()
        go_on.set()
        assert found.result(60) == 7
        closed.result(60)


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address",
    [
        f"mysql://{USER}:{PASSWORD}@localhost/sightline",
        f"postgresql+asyncpg://{USER}:geheim@localhost/sightline",
        f"{USER}:geheim@localhost",
        "postgresql://user:geheim@localhost:port/sightline",
        "sqlite:///somewhere",
    ],
)
def test_a_wrong_address_is_refused_without_showing_it(address: str, tmp_path: Path):
    """The message says how to write it, and not what was written, for there is a password in it."""
    with pytest.raises(BadUserInput, match="postgresql://user:password@host") as caught:
        Ledger.open(Settings(index_path=tmp_path, index_database_url=address), NAME)
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_people_are_told_of_a_database_without_its_password(scheme: str, tmp_path: Path):
    """By host, port and name."""
    address = f"{scheme}://someone:geheim@db.example:5433/pictures?sslmode=verify-full"
    database = Database.named(Settings(index_database_url=address), tmp_path)
    assert database.where == "PostgreSQL at db.example:5433/pictures"
    assert "geheim" not in repr(vars(database))
    database.close()


def test_settings_do_not_show_the_password():
    """Neither printed nor dumped."""
    chosen = Settings(index_database_url="postgresql://someone:geheim@db.example/pictures")
    assert "geheim" not in f"{chosen!r} {chosen.model_dump_json()}"


# ---------------------------------------------------------------- a PostgreSQL that is away, or does not want


def impatient(address: str) -> Database:
    """A database that is tried again for a moment only."""
    return Database(make_url(address).set(drivername="postgresql+psycopg"), patience_s=0.5)


@pytest.mark.programs
def test_what_a_server_refuses_is_explained(postgres: Postgres):
    """A wrong password, a database that is not there: said at once, with what to do, and no secret in it."""
    for address in (postgres.url("postgres", "wrong secret"), postgres.url("nowhere")):
        database = Database(make_url(address).set(drivername="postgresql+psycopg"))
        with pytest.raises(LedgerUnavailable, match=r"refuses.*INDEX_DATABASE_URL") as caught:
            Ledger(database, NAME)
        database.close()
        assert not any(secret in str(caught.value) for secret in ("wrong", PASSWORD))


@pytest.mark.programs
def test_a_server_that_stays_away_is_an_error_that_says_so(postgres: Postgres):
    """After it was tried again for a while."""
    unused = postgres.url("postgres").replace(f":{postgres.port}/", ":1/")
    database = impatient(unused)
    with pytest.raises(LedgerUnavailable, match=r"does not answer.*run the same command again"):
        Ledger(database, NAME)
    database.close()


@pytest.mark.programs
def test_who_waits_for_the_end_does_not_wait_for_the_server(postgres: Postgres):
    """Once somebody is in a hurry nothing is tried again."""
    unused = postgres.url("postgres").replace(f":{postgres.port}/", ":1/")
    database = Database(make_url(unused).set(drivername="postgresql+psycopg"), patience_s=3600)
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(Ledger, database, NAME)
        database.hurry()
        assert isinstance(opening.exception(60), LedgerUnavailable)
    database.close()


@pytest.mark.programs
def test_a_statement_that_takes_too_long_is_ended(postgres: Postgres):
    """By the server, and explained; the ledger can be used on."""
    database = impatient(postgres.url("postgres"))
    with pytest.raises(LedgerUnavailable, match="too slow"):
        database.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(3600)"), timeout_s=0.2)
    assert database.read(lambda connection: connection.exec_driver_sql("SELECT 7").scalar()) == 7
    database.close()


@pytest.mark.programs
def test_a_key_that_is_too_long_for_postgresql_is_named(postgresql: Settings):
    """Its index has no room for it; a key of the longest that is allowed is accepted, whatever it is made of."""
    ledger = Ledger.open(postgresql, NAME)
    begin(ledger)
    longest = "".join(Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=2500))
    ledger.record(GENERATION, [picture(longest)])
    with pytest.raises(BadUserInput, match="2501 bytes"):
        ledger.record(GENERATION, [picture("a.png"), picture(longest + "x")])
    assert [row.key for row in ledger.rows(GENERATION)] == [longest]
    ledger.close()


@pytest.mark.programs
def test_workers_that_lock_each_other_out_both_get_through(postgresql: Settings):
    """PostgreSQL ends one of two transactions in a deadlock; it is done again."""
    ledger = Ledger.open(postgresql, NAME)
    begin(ledger)
    ledger.record(GENERATION, [picture("a.png"), picture("b.png")])
    both = threading.Barrier(2)
    tries: list[str] = []

    def work(first: str, second: str) -> None:
        def cross(connection: Any) -> None:
            tries.append(first)
            change = "UPDATE items SET size = size + 1 WHERE key = '%s'"
            connection.exec_driver_sql(change % first)
            with suppress(threading.BrokenBarrierError):
                both.wait(60)
            both.abort()
            connection.exec_driver_sql(change % second)

        ledger._database.write(cross)

    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(work, *keys) for keys in (("a.png", "b.png"), ("b.png", "a.png"))]
        for each in done:
            each.result(60)
    assert len(tries) == 3
    assert [row.size for row in ledger.rows(GENERATION)] == [3, 3]
    ledger.close()


@pytest.mark.programs
def test_a_server_killed_again_and_again_costs_nothing(tmp_path: Path):
    """Killed at seeded instants while batches are recorded: each is there whole or not at all, in the end all are."""
    chance = Random(11)
    keys = [f"{number:03}.png" for number in range(100)]
    with Postgres(durable=True) as server:
        settings = Settings(index_path=tmp_path, index_database_url=server.url(server.create()))
        ledger = Ledger.open(settings, NAME)
        begin(ledger)
        done, recorded = threading.Event(), threading.Semaphore(0)

        def record() -> int:
            mark = 0
            while not done.is_set():
                mark += 1
                ledger.record(GENERATION, [picture(key, str(mark % 10)) for key in keys])
                recorded.release()
            return mark

        with ThreadPoolExecutor(1) as threads:
            recording = threads.submit(record)
            try:
                for _ in range(5):
                    for _ in range(1 + chance.randrange(4)):
                        assert recorded.acquire(timeout=120)
                    done.wait(chance.random() * 0.03)  # somewhere inside a batch
                    server.kill()
                    server.start()
                    rows = list(ledger.rows(GENERATION, whole=True))
                    assert rows == [picture(key, rows[0].stamp) for key in keys]
            finally:
                done.set()
            last = recording.result(120)
        assert list(ledger.rows(GENERATION, whole=True)) == [picture(key, str(last % 10)) for key in keys]
        ledger.close()


# ---------------------------------------------------------------- the lock


def test_one_machine_builds_an_index(catalogue: Settings):
    """Another one is refused and told where the ledger is; another index is not concerned; afterwards it is free."""
    catalogue.index_path.joinpath(NAME).mkdir(parents=True, exist_ok=True)
    catalogue.index_path.joinpath("other").mkdir(parents=True, exist_ok=True)
    first, second, other = (Ledger.open(catalogue, name) for name in (NAME, NAME, "other"))
    shared = bool(catalogue.index_database_url.get_secret_value())
    with first.lock() as require:
        require()
        with other.lock():
            pass
        if shared:
            with pytest.raises(IndexUnavailable, match=rf"building index {NAME!r}.*PostgreSQL at"), second.lock():
                pass
    with second.lock() as require:
        require()
    for ledger in (first, second, other):
        ledger.close()


@pytest.mark.programs
def test_a_lock_lost_with_the_server_is_taken_again_unless_somebody_was_quicker(tmp_path: Path):
    """It is asked for again before a decisive step, and then one of two has it, not both."""
    with Postgres(durable=True) as server:
        settings = Settings(index_path=tmp_path, index_database_url=server.url(server.create()))
        first, second = Ledger.open(settings, NAME), Ledger.open(settings, NAME)
        with first.lock() as require:
            server.kill()
            server.start()
            require()
            with pytest.raises(IndexUnavailable, match="Another machine"), second.lock():
                pass
            server.kill()
            server.start()
            with second.lock(), pytest.raises(IndexUnavailable, match="Another machine"):
                require()
            require()
        first.close()
        second.close()
