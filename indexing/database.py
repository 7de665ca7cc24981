"""The database of the catalogue and ledger: a SQLite file, or a PostgreSQL that may go away and come back.

Work is done in short transactions, each a function of a connection. A transaction that fails because the server was
restarted, the connection lost or another worker in the way is done again, from its begin, with growing pauses. After a
lost connection nobody knows whether it was committed, so every function given to `write` must be idempotent.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from engine.errors import BadUserInput, LedgerUnavailable
from engine.patience import PATIENCE_S, pauses
from engine.settings import Settings

T = TypeVar("T")

SHORT_S: Final = 60.0
"""Seconds that one statement of an ordinary transaction may take."""

LONG_S: Final = 3600.0
"""Seconds for what touches every row of a generation."""

_SQLITE_BUSY_S: Final = 30
_PAUSE_WORTH_TELLING_S: Final = 1.0

# A server that dies without a word is noticed in 30 s, with or without a statement on its way to it.
_CONNECTION: Final[dict[str, Any]] = {
    "application_name": "sightline",
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# Set for each transaction, so that it holds behind a connection pooler too. A worker that is stopped, or whose machine
# is gone, keeps its rows locked no longer than this.
_LIMITS: Final = text(
    "SELECT set_config('statement_timeout', :milliseconds, true), "
    "set_config('idle_in_transaction_session_timeout', :milliseconds, true)"
)

_LOCK: Final = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_UNLOCK: Final = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")
_LOCK_SHARED: Final = text("SELECT pg_try_advisory_lock_shared(hashtextextended(:name, 0))")
_UNLOCK_SHARED: Final = text("SELECT pg_advisory_unlock_shared(hashtextextended(:name, 0))")

_DRIVERS: Final = ("postgresql", "postgres", "postgresql+psycopg")
_TRANSIENT: Final = (
    "08",  # connection exceptions
    "25006",  # a primary that became a standby
    "25P03",  # idle in transaction for too long
    "40",  # serialization failure, deadlock
    "53300",  # too many connections
    "55P03",  # a lock that was not to be had
    "57P01",  # the administrator ends connections
    "57P02",  # another connection crashed the server
    "57P03",  # the server is starting or stopping
    "57P05",  # idle for too long
)
# A server that refuses a connection tells psycopg no code, only these words. In another language it is asked again in
# vain until patience ends.
_REFUSED: Final = re.compile(
    "authentication failed|no password supplied|does not exist|no pg_hba.conf entry|certificate|not support SSL"
)


class Database:
    """Transactions on a SQLite file (`sqlite:///…`) or a PostgreSQL database. Any number of threads may use it."""

    def __init__(self, url: URL, *, patience_s: float = PATIENCE_S) -> None:
        self.dialect = url.get_backend_name()
        """"sqlite" or "postgresql"."""
        self.where = f"PostgreSQL at {_address(url)}" if self.dialect == "postgresql" else str(url.database)
        """The database as people are told of it, without user and password."""
        self._patience_s = patience_s
        self._hurry = threading.Event()
        self._running = 0
        self._changed = threading.Condition()
        self._engine = _sqlite(url) if self.dialect == "sqlite" else _postgresql(url)

    @classmethod
    def named(cls, settings: Settings, file: Path) -> Database:
        """The database that the settings name, else a SQLite file, which is made if it is missing.

        Raises `BadUserInput` if INDEX_DATABASE_URL is no address of a PostgreSQL database.
        """
        told = settings.index_database_url.get_secret_value()
        if not told:
            return cls(URL.create("sqlite", database=str(file)))
        try:
            url = make_url(told)
        except (ArgumentError, ValueError):
            url = None
        if url is None or url.drivername not in _DRIVERS:
            raise BadUserInput(
                "INDEX_DATABASE_URL is not the address of a PostgreSQL database. Write it as "
                "postgresql://user:password@host:5432/database, special characters in the password as %XX, or leave "
                "it empty for a SQLite file."
            ) from None
        return cls(url.set(drivername="postgresql+psycopg"))

    def hurry(self) -> None:
        """From now on nothing is tried again: somebody waits for the process to end."""
        self._hurry.set()

    def close(self) -> None:
        """Lets go of the file or the connections, when the transactions of other threads have ended."""
        self.hurry()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        self._engine.dispose()

    def read(self, work: Callable[[Connection], T], *, timeout_s: float = SHORT_S) -> T:
        """What `work` finds, in one transaction. Raises `LedgerUnavailable` if the database stays away."""
        return self._transact(work, "BEGIN", timeout_s)

    def write(self, work: Callable[[Connection], T], *, timeout_s: float = SHORT_S) -> T:
        """What `work` returns when all that it wrote is committed, or else nothing of it is. It may run repeatedly.

        Raises `LedgerUnavailable` if the database stays away, or has no room or no permission for it.
        """
        return self._transact(work, "BEGIN IMMEDIATE", timeout_s)

    @contextmanager
    def locked(self, name: str, *, shared: bool = False) -> Iterator[Callable[[], bool]]:
        """Holds an advisory lock of PostgreSQL, alone or shared, and gives a way to ask whether it is still held.

        It is a session's, so it is free at once when this process or its machine's connection is gone, and lost when
        the server is restarted: whoever asks then takes it again, unless somebody else was quicker. Behind a pooler
        that shares sessions it means nothing. On SQLite there is nothing to hold: one machine has the file. Yields a
        function that is False when it belongs to somebody else; ask it before entering too.
        """
        if self.dialect == "sqlite":
            yield lambda: True
            return
        held: list[Connection] = []

        def ask() -> bool:
            if held:
                try:
                    held[0].scalar(text("SELECT 1"))
                except DBAPIError:
                    held.pop().close()
                else:
                    return True
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                got = bool(connection.scalar(_LOCK_SHARED if shared else _LOCK, {"name": f"sightline {name}"}))
            except BaseException:
                connection.close()
                raise
            if got:
                held.append(connection)
            else:
                connection.close()
            return got

        try:
            yield partial(self._insisting, ask)
        finally:
            for connection in held:
                try:
                    connection.scalar(_UNLOCK_SHARED if shared else _UNLOCK, {"name": f"sightline {name}"})
                except DBAPIError:
                    connection.invalidate()  # ends the session, and the lock with it
                connection.close()

    def insert(self, table: Any) -> Any:
        """An INSERT of the database's own dialect, which knows ON CONFLICT."""
        if self.dialect == "postgresql":
            from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - only where it is used

            return postgresql.insert(table)
        from sqlalchemy.dialects import sqlite  # noqa: PLC0415 - the same

        return sqlite.insert(table)

    def _transact(self, work: Callable[[Connection], T], begin: str, timeout_s: float) -> T:
        def attempt() -> T:
            with self._engine.connect().execution_options(sqlite_begin=begin) as connection, connection.begin():
                if self.dialect == "postgresql":
                    connection.execute(_LIMITS, {"milliseconds": str(int(timeout_s * 1000))})
                return work(connection)

        return self._insisting(attempt)

    def _insisting(self, attempt: Callable[[], T]) -> T:
        """What an attempt returns, made again while the database is away or busy, until patience ends."""
        with self._counted():
            give_up = time.monotonic() + self._patience_s
            pause_s = pauses()
            while True:
                try:
                    return attempt()
                except DBAPIError as error:
                    pause = next(pause_s)
                    too_late = time.monotonic() + pause > give_up
                    if not self._is_transient(error) or too_late:
                        self._explain(error)
                        raise
                    if pause > _PAUSE_WORTH_TELLING_S:
                        self._tell(error)
                    if self._hurry.wait(pause):
                        self._explain(error)
                        raise

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _tell(self, error: DBAPIError) -> None:
        import structlog  # noqa: PLC0415 - nothing else here needs it

        structlog.get_logger().warning("the ledger's database does not answer", where=self.where, reason=_said(error))

    def _is_transient(self, error: DBAPIError) -> bool:
        if self.dialect == "sqlite":
            return _is_busy(error)
        state = _state(error)
        if state is not None:
            return state.startswith(_TRANSIENT)
        return error.connection_invalidated or (
            isinstance(error, OperationalError) and not _REFUSED.search(str(error.orig))
        )

    def _explain(self, error: DBAPIError) -> None:
        """Raises what a person can act on, if the database and not a mistake of ours is the reason."""
        goes_on = "and run the same command again: it goes on from here. The serving generation is untouched."
        if self.dialect == "sqlite":
            if _is_busy(error):
                raise LedgerUnavailable(
                    f"{self.where} is locked by another process. Wait until that is done, {goes_on}"
                ) from error
            return
        reason, state = _said(error), _state(error)
        if self._is_transient(error):
            raise LedgerUnavailable(
                f"{self.where} does not answer: {reason}. Start it, or correct INDEX_DATABASE_URL, {goes_on}"
            ) from error
        if state == "57014":
            raise LedgerUnavailable(
                f"{self.where} was too slow: {reason}. See what keeps it busy or locks rows, {goes_on}"
            ) from error
        while_connecting = state is None and error.statement is None
        if while_connecting or (state or "").startswith(("28", "3D", "42501", "53", "54", "57", "58")):
            raise LedgerUnavailable(
                f"{self.where} refuses: {reason}. Mend that, or correct INDEX_DATABASE_URL, {goes_on}"
            ) from error


def _sqlite(url: URL) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": _SQLITE_BUSY_S},
        hide_parameters=True,
        json_serializer=_dump,
        json_deserializer=orjson.loads,
    )

    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where `begin` says, schema changes included
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options()["sqlite_begin"])

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def _postgresql(url: URL) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,
        connect_args={name: value for name, value in _CONNECTION.items() if name not in url.query},
        hide_parameters=True,
        json_serializer=_dump,
        json_deserializer=orjson.loads,
    )


def _address(url: URL) -> str:
    """Host, port and name of the database; hosts may be given as options too."""
    told = url.host or url.query.get("host") or "the local socket"
    host = told if isinstance(told, str) else ",".join(told)
    return f"{host}{f':{url.port}' if url.port else ''}/{url.database or ''}"


def _state(error: DBAPIError) -> str | None:
    """The SQLSTATE that PostgreSQL gave, if it came to that."""
    return getattr(error.orig, "sqlstate", None)


def _said(error: DBAPIError) -> str:
    """The database's own words, on one line."""
    return " ".join(str(error.orig).split())


def _is_busy(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _dump(document: Any) -> str:
    return orjson.dumps(document).decode()
