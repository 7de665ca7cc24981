"""Brings a ledger's tables to the version that this code knows, with what is in them.

Opening a ledger does it, once, however many workers open it at the same time: the whole way from version to version is
one transaction under a lock, so it happens altogether or not at all. Alembic is imported only when there is something
to do. `python -m indexing.migrations` goes back, for who goes back to an older Sightline.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text

from engine.errors import BadUserInput, LedgerUnavailable
from indexing.database import LONG_S, Database

if TYPE_CHECKING:
    from alembic.config import Config

HEAD: Final = "0003"
"""The version that this code reads and writes; the newest in `versions/`."""

_FIRST: Final = "0001"  # SQLite files of the first release are of this version and don't say so
_LOCK: Final = 7_306_932_019_583_122_785  # any number, as long as nobody else locks it


def upgrade(database: Database, index_name: str) -> None:
    """Makes the tables, or brings them to `HEAD`.

    Rows from before one database could hold several indexes become those of `index_name`. Raises `LedgerUnavailable`
    for tables of a newer Sightline or of another program.
    """
    if database.read(version) != HEAD:
        database.write(partial(_upgrade, database=database, index_name=index_name), timeout_s=LONG_S)


def downgrade(database: Database, revision: str) -> None:
    """Takes the tables back to an older version, with all that it has a place for.

    Raises `BadUserInput` if there is no such version, or if it has no place for several indexes.
    """
    database.write(partial(_downgrade, revision=revision), timeout_s=LONG_S)


def version(connection: Connection) -> str | None:
    """The version that the database says it is of; None if it has never been told."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _upgrade(connection: Connection, database: Database, index_name: str) -> None:
    _lock(connection)
    found = version(connection)
    if found == HEAD:  # another worker was faster
        return
    from alembic import command  # noqa: PLC0415 - takes longer than all else that opening does

    config = _config(connection)
    config.attributes["index_name"] = index_name
    if found is None and inspect(connection).has_table("items"):
        if database.dialect != "sqlite":
            raise LedgerUnavailable(
                f'{database.where} has a table "items" that is not Sightline\'s. Name a database, or with '
                "?options=-csearch_path%3Dsightline a schema, that nothing else uses."
            )
        command.stamp(config, _FIRST)
    elif found is not None and found not in _known(config):
        raise LedgerUnavailable(
            f"The tables of {database.where} are of version {found!r}, this Sightline knows them up to {HEAD!r}. Use "
            f"the newer Sightline, or have that one take them back: python -m indexing.migrations {HEAD}"
        )
    if database.dialect == "postgresql" and connection.scalar(text("SHOW server_encoding")) != "UTF8":
        raise LedgerUnavailable(
            f"{database.where} can't hold every file name. Make a database with ENCODING 'UTF8' TEMPLATE template0."
        )
    command.upgrade(config, HEAD)


def _downgrade(connection: Connection, revision: str) -> None:
    _lock(connection)
    from alembic import command  # noqa: PLC0415 - as above

    config = _config(connection)
    if revision not in _known(config):
        raise BadUserInput(f"There is no version {revision!r}. There are: {', '.join(sorted(_known(config)))}.")
    if version(connection) != revision:  # so that it may run repeatedly
        command.downgrade(config, revision)


def _lock(connection: Connection) -> None:
    """Until the transaction ends; SQLite's began with a lock."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _config(connection: Connection) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _known(config: Config) -> set[str]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
