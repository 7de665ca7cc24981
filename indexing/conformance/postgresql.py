"""The checks of a PostgreSQL server: the ledger's, each on two new indexes that are removed again.

The database's tables are made, or brought up to date, as by any command that opens the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.conformance.check import Check, Part, sentence
from engine.settings import Settings

if TYPE_CHECKING:
    from indexing.conformance import ledger


@asynccontextmanager
async def postgresql_checks(settings: Settings) -> AsyncIterator[Sequence[Check]]:
    """The checks of the database that INDEX_DATABASE_URL names.

    Raises `LedgerUnavailable` when it can't be reached or refuses, and `BadUserInput` for a wrong address.
    """
    from indexing.conformance import ledger  # noqa: PLC0415 - loads SQLAlchemy

    await asyncio.to_thread(_reach, settings)
    yield [(sentence(check), partial(asyncio.to_thread, _run, check, settings)) for check in ledger.CHECKS]


POSTGRESQL: Final = Part(
    "PostgreSQL", "INDEX_DATABASE_URL", "each index has its catalogue and ledger in a SQLite file", postgresql_checks
)
"""The one part of indexing that another program can serve."""


def _reach(settings: Settings) -> None:
    """Asks once. Indexing waits a minute for a server that is being restarted; whoever checks wants to know now."""
    from indexing.database import Database  # noqa: PLC0415 - loads SQLAlchemy

    with closing(Database.named(settings, Path())) as database:
        database.hurry()
        database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))


def _run(check: ledger.Check, settings: Settings) -> None:
    from indexing.conformance.ledger import scratch  # noqa: PLC0415 - loads SQLAlchemy

    with scratch(settings) as ledgers:
        check(*ledgers)
