"""The catalogue and ledger: what became of every file of an index's source, generation by generation, run by run.

A generation's rows describe exactly its vectors. They are copied when one generation starts from another and go when it
goes, so a killed run, a discarded generation or a rollback never leaves rows that speak of vectors which are not there.

Every transaction is short and may run again: rows are put in place of what is there, never first deleted, so workers
that record the same files leave each once, and a database that was restarted in between costs nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    bindparam,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)

from engine.errors import BadUserInput, IndexBusy
from engine.settings import Settings
from indexing import migrations
from indexing.database import LONG_S, Database
from indexing.schema import BUILDS, ITEMS, PROBLEMS, RUNS
from indexing.sources.items import Problem

T = TypeVar("T")

FILE: Final = "ledger.sqlite"
"""The name of the SQLite file in an index's folder."""

_PAGE: Final = 1000
_PART: Final = 500
_LONGEST_KEY: Final = 2500  # bytes; a row of PostgreSQL's index on the keys has room for 2,704


@dataclass(frozen=True, slots=True)
class Row:
    """One file of the source.

    `stamp` changes with everything beside the file's bytes that its payload is made of: its path and its sidecar.
    `content_hash`, `width`, `height` (pixels), `taken_at` (RFC 3339) and `metadata`, the words beside a picture, are
    None for a skipped file, `reason` and `detail` for an indexed one. `path` is where the file lies, for people to
    read. What an earlier version did not record is None too.
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
    taken_at: str | None = None
    path: str | None = None
    metadata: Mapping[str, Any] | None = None


_WHOLE: Final = [ITEMS.c[field.name] for field in fields(Row)]
_PLAIN: Final = [column for column in _WHOLE if column is not ITEMS.c.metadata]
_COPIED: Final = [*_WHOLE, ITEMS.c.recorded_at]


@dataclass(frozen=True, slots=True)
class Build:
    """A generation that the ledger describes; `requested_model` is how the settings named its model."""

    generation: str
    base: str | None
    requested_model: str
    source: str
    promoted: bool


_BUILD: Final = [BUILDS.c[field.name] for field in fields(Build)]


@dataclass(frozen=True, slots=True)
class Run:
    """One indexing run, or one worker's part of it. Without an `outcome` it goes on still, or it was killed."""

    id: str
    source: str
    started: str
    finished: str | None
    outcome: str | None
    generation: str | None
    shard_index: int
    shard_count: int
    indexed: int | None
    unchanged: int | None
    skipped: int | None
    deleted: int | None


_RUN: Final = [RUNS.c[field.name] for field in fields(Run)]
_PROBLEM: Final = [PROBLEMS.c[field.name] for field in fields(Problem)]


class Ledger:
    """The rows of one index in a database, whose tables it makes or brings up to date. Threads may share it."""

    def __init__(self, database: Database, index_name: str) -> None:
        self._database = database
        self._index = index_name
        migrations.upgrade(database, index_name)

    @classmethod
    def open(cls, settings: Settings, index_name: str) -> Ledger:
        """The ledger of an index where the settings say; a SQLite file's folder must be there.

        Raises `LedgerUnavailable` if PostgreSQL does not answer or refuses, and `BadUserInput` for a wrong address.
        """
        database = Database.named(settings, settings.index_path / index_name / FILE)
        try:
            return cls(database, index_name)
        except BaseException:
            database.close()
            raise

    def lock(self, *, shared: bool = False) -> AbstractContextManager[Callable[[], None]]:
        """Held by the one that builds the index, or by several that share it, where machines share the database.

        Gives a function to call before a decisive step. Both raise `IndexBusy` when another machine has it: see
        `Database.locked`.
        """
        return self._holding("building", shared=shared)

    def beginning(self) -> AbstractContextManager[Callable[[], None]]:
        """Held by the one of several builders that begins a generation. Raises `IndexBusy` when another one does."""
        return self._holding("beginning", shared=False)

    @contextmanager
    def _holding(self, doing: str, *, shared: bool) -> Iterator[Callable[[], None]]:
        with self._database.locked(f"{doing} {self._index}", shared=shared) as ask:

            def require() -> None:
                if not ask():
                    raise IndexBusy(
                        f"Another machine is {doing} index {self._index!r} right now, with the ledger in "
                        f"{self._database.where}. Wait until it is done, and run this again."
                    )

            require()
            yield require

    def hurry(self) -> None:
        """From now on a database that is away is an error at once: somebody waits for the process to end."""
        self._database.hurry()

    def close(self) -> None:
        """Lets go of the database, when what other threads do with it has ended."""
        self._database.close()

    def erase(self) -> None:
        """Forgets the index: all its files, generations and runs."""

        def work(connection: Connection) -> None:
            for table in (ITEMS, BUILDS, PROBLEMS, RUNS):
                connection.execute(delete(table).where(table.c.index_name == self._index))

        self._database.write(work, timeout_s=LONG_S)

    # ---------------------------------------------------------------- generations

    def build(self, generation: str) -> Build | None:
        """What is known of a generation; None if its rows are not here."""
        query = select(*_BUILD).where(BUILDS.c.index_name == self._index, BUILDS.c.generation == generation)
        found = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return Build(*found) if found else None

    def adopt(self, build: Build) -> None:
        """Begins to describe a generation, with its base's rows if it has one, all or nothing.

        Nothing happens if that was done before: another worker may be at it already.
        """
        begin = self._database.insert(BUILDS).values(index_name=self._index, **asdict(build))
        begin = begin.on_conflict_do_nothing().returning(BUILDS.c.generation)  # a row only if there was none
        base = select(literal(self._index), literal(build.generation), *_COPIED).where(*self._of(build.base or ""))
        names = ["index_name", "generation", *(column.name for column in _COPIED)]
        copied = ITEMS.insert().from_select(names, base)

        def work(connection: Connection) -> None:
            if not connection.scalar(begin):
                return
            connection.execute(self._lost(build.generation))  # what was done in one of this id that was discarded
            if build.base:
                connection.execute(copied)

        self._database.write(work, timeout_s=LONG_S)

    def name_model(self, generation: str, requested: str) -> None:
        """Notes by which name the settings ask for a generation's model now."""
        self._change_build(generation, requested_model=requested)

    def mark_promoted(self, generation: str) -> None:
        """Notes that a generation has served: a later rollback from it is somebody's wish and is not undone."""
        self._change_build(generation, promoted=True)

    def builds(self) -> list[Build]:
        """Every generation described here."""
        query = select(*_BUILD).where(BUILDS.c.index_name == self._index).order_by(BUILDS.c.generation)
        return self._database.read(lambda connection: [Build(*found) for found in connection.execute(query)])

    def only_in(self, generations: Sequence[str]) -> Iterator[list[str]]:
        """The content hashes that these generations have and no other one has, sorted, page by page."""
        others = ITEMS.alias()
        elsewhere = exists().where(
            others.c.index_name == self._index,
            others.c.content_hash == ITEMS.c.content_hash,
            others.c.generation.not_in(generations),
        )
        query = (
            select(ITEMS.c.content_hash)
            .distinct()
            .where(
                ITEMS.c.index_name == self._index,
                ITEMS.c.generation.in_(generations),
                ITEMS.c.content_hash.is_not(None),
                ~elsewhere,
            )
            .order_by(ITEMS.c.content_hash)
            .limit(_PAGE)
        )
        after = ""
        while True:
            page = query.where(ITEMS.c.content_hash > after)
            found = self._database.read(partial(_fetch, query=page), timeout_s=LONG_S)
            if found:
                yield [row.content_hash for row in found]
            if len(found) < _PAGE:
                return
            after = found[-1].content_hash

    def named(self, contents: Collection[str]) -> set[str]:
        """Which of these content hashes some file of some generation has."""
        found: set[str] = set()
        for part in _parts(sorted(contents)):
            query = select(ITEMS.c.content_hash).where(
                ITEMS.c.index_name == self._index, ITEMS.c.content_hash.in_(part)
            )
            found.update(row.content_hash for row in self._database.read(partial(_fetch, query=query.distinct())))
        return found

    def forget(self, generations: Sequence[str]) -> None:
        """Drops the rows of generations."""

        def work(connection: Connection) -> None:
            for table in (ITEMS, BUILDS, PROBLEMS):
                connection.execute(
                    delete(table).where(table.c.index_name == self._index, table.c.generation.in_(generations))
                )

        self._database.write(work, timeout_s=LONG_S)

    # ---------------------------------------------------------------- items

    def rows(self, generation: str, *, whole: bool = False) -> Iterator[Row]:
        """A generation's files, sorted by key; with their metadata only if `whole`, for it can be large.

        They are read page by page, each in a transaction of its own, so a listing may take as long as it likes.
        """
        columns = _WHOLE if whole else _PLAIN
        for page in self._pages(select(*columns).where(*self._of(generation))):
            for found in page:
                yield Row(*found)

    def indexed(self, generation: str) -> Iterator[dict[str, str]]:
        """The ids of a generation's vectors, each with its file's key, page by page in the order of the keys."""
        query = select(ITEMS.c.id, ITEMS.c.key).where(*self._of(generation), ITEMS.c.state == "indexed")
        for page in self._pages(query):
            yield {found.id: found.key for found in page}

    def contents(self, generation: str, keys: Sequence[str]) -> dict[str, str | None]:
        """The content hashes of those of these files that are indexed, by the ids of their vectors."""
        found: dict[str, str | None] = {}
        for part in _parts(keys):
            query = select(ITEMS.c.id, ITEMS.c.content_hash).where(
                *self._of(generation), ITEMS.c.state == "indexed", ITEMS.c.key.in_(part)
            )
            found |= {row.id: row.content_hash for row in self._database.read(partial(_fetch, query=query))}
        return found

    def record(self, generation: str, rows: Sequence[Row]) -> None:
        """Writes rows, each in place of what was known of its file, all or nothing.

        Raises `BadUserInput` for a key that is too long for PostgreSQL.
        """
        if not rows:
            return
        now = _now()
        # Sorted, so that workers with the same files wait for each other instead of locking each other out.
        values = [
            {"index_name": self._index, "generation": generation, "recorded_at": now, **_values(row)}
            for row in sorted(rows, key=lambda row: row.key)
        ]
        if self._database.dialect == "postgresql":
            _refuse_long_keys(rows)
        put = self._database.insert(ITEMS)
        put = put.on_conflict_do_update(
            index_elements=list(ITEMS.primary_key),
            set_={column.name: put.excluded[column.name] for column in _COPIED if not column.primary_key},
        )
        self._database.write(lambda connection: connection.execute(put, values))

    def touch(self, generation: str, rows: Sequence[Row]) -> None:
        """Notes the time (`mtime_ns`) of files whose content is the same."""
        where = (*self._of(generation), ITEMS.c.key == bindparam("at"), ITEMS.c.content_hash == bindparam("content"))
        change = update(ITEMS).where(*where).values(mtime_ns=bindparam("time"))
        times = [{"at": row.key, "content": row.content_hash, "time": row.mtime_ns} for row in rows]
        for part in _parts(sorted(times, key=itemgetter("at"))):
            self._database.write(partial(Connection.execute, statement=change, parameters=part))

    def remove(self, generation: str, keys: Sequence[str]) -> None:
        """Forgets files that are gone."""
        for part in _parts(sorted(keys)):
            gone = delete(ITEMS).where(*self._of(generation), ITEMS.c.key.in_(part))
            self._database.write(partial(Connection.execute, statement=gone))

    def skipped(self, generation: str) -> dict[str, list[str]]:
        """The skipped files of a generation by reason, sorted."""
        query = (
            select(ITEMS.c.reason, ITEMS.c.key)
            .where(*self._of(generation), ITEMS.c.state == "skipped")
            .order_by(ITEMS.c.reason, ITEMS.c.key)
        )
        by_reason: dict[str, list[str]] = {}
        for reason, key in self._database.read(partial(_fetch, query=query), timeout_s=LONG_S):
            by_reason.setdefault(reason, []).append(key)
        return by_reason

    def counts(self, generation: str) -> dict[str, int]:
        """How many files a generation has in each state."""
        query = select(ITEMS.c.state, func.count().label("files")).where(*self._of(generation)).group_by(ITEMS.c.state)
        counted = self._database.read(partial(_fetch, query=query), timeout_s=LONG_S)
        return {"indexed": 0, "skipped": 0, **{found.state: found.files for found in counted}}

    # ---------------------------------------------------------------- problems

    def note_problems(
        self, generation: str, problems: Sequence[Problem], *, shard_index: int = 0, shard_count: int = 1
    ) -> None:
        """Puts what a listing could not use in place of what the one before told of that shard."""
        values = [
            {
                "index_name": self._index,
                "generation": generation,
                "shard_count": shard_count,
                "shard_index": shard_index,
                "position": position,
                **asdict(problem),
            }
            for position, problem in enumerate(problems)
        ]
        of_other_shard = (PROBLEMS.c.shard_count == shard_count) & (PROBLEMS.c.shard_index != shard_index)
        old = delete(PROBLEMS).where(
            PROBLEMS.c.index_name == self._index, PROBLEMS.c.generation == generation, ~of_other_shard
        )
        new = self._database.insert(PROBLEMS)
        new = new.on_conflict_do_update(  # of another worker at the same shard
            index_elements=list(PROBLEMS.primary_key),
            set_={column.name: new.excluded[column.name] for column in _PROBLEM},
        )

        def work(connection: Connection) -> None:
            connection.execute(old)
            if values:
                connection.execute(new, values)

        self._database.write(work, timeout_s=LONG_S)

    def problems(self, generation: str) -> list[Problem]:
        """What the latest listing of every shard could not use, sorted by key."""
        query = select(*_PROBLEM).where(PROBLEMS.c.index_name == self._index, PROBLEMS.c.generation == generation)
        found = self._database.read(partial(_fetch, query=query), timeout_s=LONG_S)
        return sorted((Problem(*row) for row in found), key=lambda problem: (problem.key, problem.sentence))

    # ---------------------------------------------------------------- runs

    def start_run(
        self, source: str, *, generation: str | None = None, shard_index: int = 0, shard_count: int = 1
    ) -> str:
        """Notes that a run has begun, of a part of the source if there are several shards; returns its id."""
        run = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(4)}"
        begun = self._database.insert(RUNS).values(
            id=run,
            index_name=self._index,
            source=source,
            started=_now(),
            generation=generation,
            shard_index=shard_index,
            shard_count=shard_count,
        )
        self._database.write(lambda connection: connection.execute(begun.on_conflict_do_nothing()))
        return run

    def end_run(self, run: str, outcome: str, **facts: Any) -> None:
        """Notes how a run ended: `facts` are the columns generation, indexed, unchanged, skipped, deleted."""
        ended = update(RUNS).where(RUNS.c.id == run).values(finished=_now(), outcome=outcome, **facts)
        self._database.write(lambda connection: connection.execute(ended))

    def runs(self) -> list[Run]:
        """Every run of this index, in the order in which they began."""
        query = select(*_RUN).where(RUNS.c.index_name == self._index).order_by(RUNS.c.started, RUNS.c.id)
        return self._database.read(lambda connection: [Run(*found) for found in connection.execute(query)])

    def shards(self, generation: str) -> tuple[int, set[int]]:
        """Into how many shards the newest run of a generation divided its source, and which of them are not done.

        (0, {}) if no run has begun.
        """
        runs = [run for run in self.runs() if run.generation == generation]
        if not runs:
            return 0, set()
        count = runs[-1].shard_count
        done = {run.shard_index for run in runs if run.shard_count == count and run.outcome == "done"}
        return count, set(range(count)) - done

    def reopen(self, generation: str, shards: Collection[int]) -> None:
        """Takes back that shards of a generation are done."""
        lost = self._lost(generation).where(RUNS.c.shard_index.in_(shards))
        self._database.write(lambda connection: connection.execute(lost))

    # ---------------------------------------------------------------- how it is asked

    def _of(self, generation: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return ITEMS.c.index_name == self._index, ITEMS.c.generation == generation

    def _lost(self, generation: str) -> Update:
        """Makes runs of a generation that were done count no more."""
        done = (RUNS.c.index_name == self._index, RUNS.c.generation == generation, RUNS.c.outcome == "done")
        return update(RUNS).where(*done).values(outcome="lost")

    def _change_build(self, generation: str, **values: Any) -> None:
        where = (BUILDS.c.index_name == self._index, BUILDS.c.generation == generation)
        change = update(BUILDS).where(*where).values(**values)
        self._database.write(lambda connection: connection.execute(change))

    def _pages(self, query: Select[Any]) -> Iterator[Sequence[Any]]:
        """What a query on one generation finds, sorted by key: each page begins after the last key of the one before.

        So no transaction stays open while the reader works, and none that is lost has to start from the first file.
        """
        after = ""
        while True:
            page = query.where(ITEMS.c.key > after).order_by(ITEMS.c.key).limit(_PAGE)
            found = self._database.read(partial(_fetch, query=page))
            if found:
                yield found
            if len(found) < _PAGE:
                return
            after = found[-1].key


def _fetch(connection: Connection, query: Select[Any]) -> Sequence[Any]:
    return connection.execute(query).all()


def _values(row: Row) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in _WHOLE}  # dataclasses.asdict copies deeply


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many at a time as a statement and a short transaction take."""
    return (values[start : start + _PART] for start in range(0, len(values), _PART))


def _refuse_long_keys(rows: Sequence[Row]) -> None:
    for row in rows:
        if len(row.key) > _LONGEST_KEY // 4 and len(row.key.encode()) > _LONGEST_KEY:
            raise BadUserInput(
                f"The path of {row.key[:100]}... inside the source has {len(row.key.encode())} bytes, PostgreSQL takes "
                f"{_LONGEST_KEY}. Move the file to a shorter path, or leave INDEX_DATABASE_URL empty."
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
