"""The tables of the catalogue and ledger, the same in SQLite and PostgreSQL, as `indexing.migrations` makes them.

Names and keys sort by code point in both databases, as Python sorts them. What people wrote or a picture contained may
hold what PostgreSQL can't store; it is replaced on the way in, in both alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
)
from sqlalchemy.types import TypeEngine

_NUL: Final = "\0"
_REPLACED: Final = "\ufffd"


class Words(TypeDecorator[str]):
    """Text from outside, without what PostgreSQL (NUL) or both databases (lone surrogates) refuse: see `storable`."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        """The text as it is stored."""
        return None if value is None else storable(value)


class Document(TypeDecorator[Any]):
    """A JSON document: `jsonb` in PostgreSQL, text in SQLite; None is NULL."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The database's own type."""
        if dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import JSONB  # noqa: PLC0415 - only where it is used

            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(JSON(none_as_null=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's
        """The document as it is stored."""
        return storable(value)


def storable(value: Any) -> Any:
    """A text or JSON document as both databases can hold it: U+FFFD for NUL, ? for a lone surrogate."""
    if isinstance(value, str):
        return value.replace(_NUL, _REPLACED).encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {storable(key): storable(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [storable(held) for held in value]
    return value


NAME: Final = String().with_variant(String(collation="C"), "postgresql")
"""A name or key: compared and sorted by code point, whatever language the database speaks."""

METADATA: Final = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"},
)

ITEMS: Final = Table(
    "items",
    METADATA,
    Column("index_name", NAME, primary_key=True),
    Column("generation", NAME, primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("stamp", String, nullable=False),
    Column("id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("content_hash", String),
    Column("reason", NAME),
    Column("detail", Words),
    Column("width", Integer),
    Column("height", Integer),
    Column("taken_at", String),
    Column("path", Words),
    Column("metadata", Document),
    Column("recorded_at", String),
    Index(None, "index_name", "generation", "state", "reason"),
    Index(None, "index_name", "content_hash"),
)
"""Every file of a source, in every generation that is kept; `recorded_at` is when its row was written (UTC)."""

BUILDS: Final = Table(
    "builds",
    METADATA,
    Column("index_name", NAME, primary_key=True),
    Column("generation", NAME, primary_key=True),
    Column("base", NAME),
    Column("requested_model", Words, nullable=False),
    Column("source", Words, nullable=False),
    Column("promoted", Boolean, nullable=False),
)
"""The generations that `items` describes."""

PROBLEMS: Final = Table(
    "problems",
    METADATA,
    Column("index_name", NAME, primary_key=True),
    Column("generation", NAME, primary_key=True),
    Column("shard_count", Integer, primary_key=True),
    Column("shard_index", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("key", Words, nullable=False),
    Column("reason", Words, nullable=False),
    Column("sentence", Words, nullable=False),
)
"""What the latest listing of a source, or of each shard of it, could not use; `position` counts within a shard."""

RUNS: Final = Table(
    "runs",
    METADATA,
    Column("id", NAME, primary_key=True),
    Column("index_name", NAME, nullable=False),
    Column("source", Words, nullable=False),
    Column("started", String, nullable=False),
    Column("finished", String),
    Column("outcome", String),
    Column("generation", NAME),
    Column("shard_index", Integer, nullable=False, server_default="0"),
    Column("shard_count", Integer, nullable=False, server_default="1"),
    Column("indexed", Integer),
    Column("unchanged", Integer),
    Column("skipped", Integer),
    Column("deleted", Integer),
)
"""Every indexing run; one that was killed has no outcome."""
