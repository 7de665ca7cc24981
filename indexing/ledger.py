"""The ledger: what became of every file of the source, generation by generation.

A generation's rows describe exactly its vectors. They are copied when one generation starts from another and go when it
goes, so a killed run, a discarded generation or a rollback never leaves rows that speak of vectors which are not there.
SQLite in WAL mode; nothing here is SQLite's own except the pragmas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    literal,
    select,
    update,
)

_METADATA: Final = MetaData()
_ITEMS: Final = Table(
    "items",
    _METADATA,
    Column("generation", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("stamp", String, nullable=False),
    Column("id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("content_hash", String),
    Column("reason", String),
    Column("detail", String),
    Column("width", Integer),
    Column("height", Integer),
)
_BUILDS: Final = Table(
    "builds",
    _METADATA,
    Column("generation", String, primary_key=True),
    Column("base", String),
    Column("requested_model", String, nullable=False),
    Column("source", String, nullable=False),
    Column("promoted", Boolean, nullable=False),
)
_RUNS: Final = Table(
    "runs",
    _METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("source", String, nullable=False),
    Column("started", String, nullable=False),
    Column("finished", String),
    Column("outcome", String),
    Column("generation", String),
    Column("indexed", Integer),
    Column("unchanged", Integer),
    Column("skipped", Integer),
    Column("deleted", Integer),
)
_BUSY_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One file of the source.

    `stamp` changes with everything beside the file's bytes that its payload is made of: its path and its sidecar.
    `content_hash`, `width` and `height` are None for a skipped file, `reason` and `detail` for an indexed one.
    """

    key: str
    size: int
    mtime_ns: int
    stamp: str
    id: str
    state: Literal["indexed", "skipped"]
    content_hash: str | None = None
    reason: str | None = None
    detail: str | None = None
    width: int | None = None
    height: int | None = None


_ROW: Final = [_ITEMS.c[field.name] for field in fields(Row)]


@dataclass(frozen=True, slots=True)
class Build:
    """A generation that the ledger describes; `requested_model` is how the settings named its model."""

    generation: str
    base: str | None
    requested_model: str
    source: str
    promoted: bool


class Ledger:
    """The ledger of one index, in a SQLite file that is made if it is missing."""

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_TIMEOUT_S})
        event.listen(self._engine, "connect", _prepare)
        try:
            _METADATA.create_all(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Lets go of the file."""
        self._engine.dispose()

    # ---------------------------------------------------------------- generations

    def build(self, generation: str) -> Build | None:
        """What is known of a generation; None if its rows are not here."""
        with self._engine.connect() as connection:
            found = connection.execute(select(_BUILDS).where(_BUILDS.c.generation == generation)).one_or_none()
        return Build(*found) if found else None

    def adopt(self, build: Build) -> None:
        """Begins to describe a generation, with its base's rows if it has one, all or nothing."""
        with self._engine.begin() as connection:
            connection.execute(insert(_BUILDS).values(asdict(build)))
            if build.base:
                copied = select(literal(build.generation), *_ROW).where(_ITEMS.c.generation == build.base)
                connection.execute(
                    insert(_ITEMS).from_select(["generation", *(column.name for column in _ROW)], copied)
                )

    def name_model(self, generation: str, requested: str) -> None:
        """Notes by which name the settings ask for a generation's model now."""
        with self._engine.begin() as connection:
            connection.execute(
                update(_BUILDS).where(_BUILDS.c.generation == generation).values(requested_model=requested)
            )

    def mark_promoted(self, generation: str) -> None:
        """Notes that a generation has served: a later rollback from it is somebody's wish and is not undone."""
        with self._engine.begin() as connection:
            connection.execute(update(_BUILDS).where(_BUILDS.c.generation == generation).values(promoted=True))

    def builds(self) -> list[Build]:
        """Every generation described here."""
        with self._engine.connect() as connection:
            return [Build(*found) for found in connection.execute(select(_BUILDS).order_by(_BUILDS.c.generation))]

    def forget(self, generations: Sequence[str]) -> list[str]:
        """Drops the rows of generations and returns the content hashes that no other generation has."""
        if not generations:
            return []
        dropped = _ITEMS.c.generation.in_(generations)
        others = _ITEMS.alias()
        kept = select(others.c.content_hash).where(
            others.c.generation.not_in(generations), others.c.content_hash.is_not(None)
        )
        lost = (
            select(_ITEMS.c.content_hash)
            .distinct()
            .where(dropped, _ITEMS.c.content_hash.is_not(None), _ITEMS.c.content_hash.not_in(kept))
        )
        with self._engine.begin() as connection:
            hashes = list(connection.scalars(lost))
            connection.execute(delete(_ITEMS).where(dropped))
            connection.execute(delete(_BUILDS).where(_BUILDS.c.generation.in_(generations)))
        return hashes

    # ---------------------------------------------------------------- items

    def rows(self, generation: str) -> Iterator[Row]:
        """A generation's files, sorted by key."""
        query = select(*_ROW).where(_ITEMS.c.generation == generation).order_by(_ITEMS.c.key)
        with self._engine.connect() as connection:
            for found in connection.execution_options(yield_per=1000).execute(query):
                yield Row(*found)

    def record(self, generation: str, rows: Sequence[Row]) -> None:
        """Writes rows, each in place of what was known of its file, all or nothing."""
        if not rows:
            return
        keys = [row.key for row in rows]
        with self._engine.begin() as connection:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                connection.execute(delete(_ITEMS).where(_ITEMS.c.generation == generation, _ITEMS.c.key.in_(part)))
            connection.execute(insert(_ITEMS), [{"generation": generation, **_values(row)} for row in rows])

    def remove(self, generation: str, keys: Sequence[str]) -> None:
        """Forgets files that are gone."""
        with self._engine.begin() as connection:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                connection.execute(delete(_ITEMS).where(_ITEMS.c.generation == generation, _ITEMS.c.key.in_(part)))

    def indexed(self, generation: str) -> dict[str, str]:
        """The ids of a generation's vectors, each with its file's key."""
        query = select(_ITEMS.c.id, _ITEMS.c.key).where(_ITEMS.c.generation == generation, _ITEMS.c.state == "indexed")
        with self._engine.connect() as connection:
            return dict(connection.execute(query).all())

    def skipped(self, generation: str) -> dict[str, list[str]]:
        """The skipped files of a generation by reason, sorted."""
        query = (
            select(_ITEMS.c.reason, _ITEMS.c.key)
            .where(_ITEMS.c.generation == generation, _ITEMS.c.state == "skipped")
            .order_by(_ITEMS.c.reason, _ITEMS.c.key)
        )
        by_reason: dict[str, list[str]] = {}
        with self._engine.connect() as connection:
            for reason, key in connection.execute(query):
                by_reason.setdefault(reason, []).append(key)
        return by_reason

    def counts(self, generation: str) -> dict[str, int]:
        """How many files a generation has in each state."""
        query = select(_ITEMS.c.state, func.count()).where(_ITEMS.c.generation == generation).group_by(_ITEMS.c.state)
        with self._engine.connect() as connection:
            return {"indexed": 0, "skipped": 0, **dict(connection.execute(query).all())}

    # ---------------------------------------------------------------- runs

    def start_run(self, source: str) -> int:
        """Notes that a run has begun; one that was killed keeps no outcome."""
        with self._engine.begin() as connection:
            made = connection.execute(insert(_RUNS).values(source=source, started=_now()))
            return int(made.inserted_primary_key[0]) if made.inserted_primary_key else 0

    def end_run(self, run: int, outcome: str, **facts: Any) -> None:
        """Notes how a run ended: `facts` are the columns generation, indexed, unchanged, skipped, deleted."""
        with self._engine.begin() as connection:
            connection.execute(update(_RUNS).where(_RUNS.c.id == run).values(finished=_now(), outcome=outcome, **facts))


def _values(row: Row) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in _ROW}  # dataclasses.asdict copies deeply


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _prepare(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
