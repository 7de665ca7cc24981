"""What the operator asks and does outside Kubernetes: generations at Qdrant, progress in the ledger."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, Protocol

import structlog

from engine.errors import IndexNotFound
from engine.generations import generations_of
from engine.settings import Settings
from imageindex_operator.observed import Progress, Stored

log = structlog.get_logger(__name__)

_PROGRESS: Final = (
    "SELECT count(*), count(*) FILTER (WHERE state = 'indexed') FROM items WHERE index_name = %s AND generation = %s"
)
_PATIENCE_S: Final = 5


class Stores(Protocol):
    """The stores of all indexes. What concerns Qdrant raises `IndexUnavailable` when it does not answer."""

    async def look(self, index: str) -> Stored:
        """The generations of an index and the one that serves."""
        ...

    async def progress(self, index: str, generation: str) -> Progress | None:
        """What the ledger has of a generation; None when it can't be asked."""
        ...

    async def promote(self, index: str, generation: str) -> None:
        """Moves the alias. Raises `IndexCorrupt` for a generation that does not hold what it was finished with."""
        ...

    async def discard(self, index: str, generation: str) -> None:
        """Deletes a generation, which does not serve."""
        ...

    async def prune(self, index: str, keep: int) -> list[str]:
        """Deletes complete generations but so many; the ids of those that are gone."""
        ...

    async def erase(self, index: str, *, snapshot: bool) -> str | None:
        """Deletes an index altogether; the name of the snapshot of what served, if one was wanted and made."""
        ...


class EngineStores:
    """The stores that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def look(self, index: str) -> Stored:
        """See `Stores`. An alias that leads nowhere known counts as one that was moved by hand."""
        async with generations_of(self._settings, index) as store:
            found = tuple(await store.list())
            return Stored(await store.current_id(), found)

    async def progress(self, index: str, generation: str) -> Progress | None:
        """See `Stores`. Progress is for people to read, so a ledger that is away costs no rollout."""
        url = self._settings.index_database_url.get_secret_value()
        if not url:
            return None
        import psycopg  # noqa: PLC0415 - loaded only where a ledger is named

        try:
            async with await psycopg.AsyncConnection.connect(
                url.replace("postgresql+psycopg:", "postgresql:", 1),
                connect_timeout=_PATIENCE_S,
                options=f"-c statement_timeout={_PATIENCE_S}s",
            ) as connection:
                row: Any = await (await connection.execute(_PROGRESS, (index, generation))).fetchone()
        except psycopg.errors.UndefinedTable:  # the first worker will make it
            return None
        except psycopg.Error as error:
            log.warning("the ledger does not answer", index=index, reason=type(error).__name__)
            return None
        return Progress(seen=row[0], indexed=row[1])

    async def promote(self, index: str, generation: str) -> None:
        """See `Stores`."""
        async with generations_of(self._settings, index) as store:
            await store.verify(await store.get(generation))  # or replicas would refuse it, one by one
            await store.promote(generation)

    async def discard(self, index: str, generation: str) -> None:
        """See `Stores`. One that is gone already is as good."""
        async with generations_of(self._settings, index) as store:
            with suppress(IndexNotFound):
                await store.discard(await store.get(generation))

    async def prune(self, index: str, keep: int) -> list[str]:
        """See `Stores`."""
        async with generations_of(self._settings, index) as store:
            return [gone.id for gone in await store.prune(keep)]

    async def erase(self, index: str, *, snapshot: bool) -> str | None:
        """See `Stores`. What serves goes last, so that a deletion that is cut short still knows it."""
        from engine.indexes.qdrant_connection import QdrantConnection  # noqa: PLC0415 - loads gRPC

        connection = QdrantConnection(self._settings)
        taken = None
        try:
            async with generations_of(self._settings, index) as store:
                found, current = await store.list(), await store.current_id()
                for generation in found:
                    if generation.id != current:
                        await store.discard(generation)
            alias = f"sightline-{index}"
            if current is not None:
                if snapshot:
                    taken = await connection.snapshot(f"{alias}-{current}")
                await connection.drop(f"{alias}-{current}")
            await connection.delete_alias(alias)
        finally:
            await connection.close()
        return taken
