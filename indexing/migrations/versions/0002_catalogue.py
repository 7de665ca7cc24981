"""Several indexes in one database, several workers at one generation, and all that is known of each picture.

Each table is made anew beside the old one, which works the same in both databases; SQLite can't change a primary key.
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import JSON, BigInteger, Boolean, Column, Integer, PrimaryKeyConstraint, String, text
from sqlalchemy.dialects.postgresql import JSONB

from engine.errors import BadUserInput

revision = "0002"
down_revision = "0001"

_NAME = String().with_variant(String(collation="C"), "postgresql")
_JSON = JSON().with_variant(JSONB(), "postgresql")
_FILE = "generation, key, size, mtime_ns, stamp, id, state, content_hash, reason, detail, width, height"
_BUILD = "generation, base, requested_model, source, promoted"
_RUN = "source, started, finished, outcome, generation, indexed, unchanged, skipped, deleted"
_TABLES = ("items", "builds", "runs")


def upgrade() -> None:
    """All rows become those of the index that is being opened. Where a picture lies follows from source and key."""
    for table in _TABLES:
        op.rename_table(table, f"{table}_0001")
    _make_tables()
    name = context.config.attributes["index_name"]
    _fill(
        f"INSERT INTO items (index_name, {_FILE}, path) "
        f"SELECT CAST(:name AS VARCHAR), {_FILE}, (SELECT rtrim(source, '/') || '/' || key FROM builds_0001 "
        "WHERE builds_0001.generation = items_0001.generation) FROM items_0001",
        name,
    )
    _fill(f"INSERT INTO builds (index_name, {_BUILD}) SELECT CAST(:name AS VARCHAR), {_BUILD} FROM builds_0001", name)
    _fill(
        f"INSERT INTO runs (id, index_name, {_RUN}) "
        f"SELECT CAST(id AS VARCHAR), CAST(:name AS VARCHAR), {_RUN} FROM runs_0001",
        name,
    )
    for table in _TABLES:
        op.drop_table(f"{table}_0001")
    op.create_index(
        "ix_items_index_name_generation_state_reason", "items", ["index_name", "generation", "state", "reason"]
    )
    op.create_index("ix_items_index_name_content_hash", "items", ["index_name", "content_hash"])


def downgrade() -> None:
    """Keeps every file, generation and run, and loses what 0001 has no column for. Runs are counted anew."""
    names = "SELECT index_name FROM items UNION SELECT index_name FROM builds UNION SELECT index_name FROM runs"
    held = list(op.get_bind().scalars(text(names)))
    if len(held) > 1:
        raise BadUserInput(
            f"Version 0001 has a place for one index only, and here are {len(held)}: {', '.join(sorted(held))}. Keep "
            "this version, or give the older Sightline an empty database and let it index anew."
        )
    op.drop_index("ix_items_index_name_generation_state_reason", "items")
    op.drop_index("ix_items_index_name_content_hash", "items")
    for table in _TABLES:
        op.rename_table(table, f"{table}_0002")
    context.script.get_revision(down_revision).module.upgrade()
    op.execute(f"INSERT INTO items ({_FILE}) SELECT {_FILE} FROM items_0002")
    op.execute(f"INSERT INTO builds ({_BUILD}) SELECT {_BUILD} FROM builds_0002")
    op.execute(f"INSERT INTO runs ({_RUN}) SELECT {_RUN} FROM runs_0002 ORDER BY started, id")
    for table in _TABLES:
        op.drop_table(f"{table}_0002")


def _make_tables() -> None:
    op.create_table(
        "items",
        Column("index_name", _NAME),
        Column("generation", _NAME),
        Column("key", _NAME),
        Column("size", BigInteger, nullable=False),
        Column("mtime_ns", BigInteger, nullable=False),
        Column("stamp", String, nullable=False),
        Column("id", String, nullable=False),
        Column("state", String, nullable=False),
        Column("content_hash", String),
        Column("reason", _NAME),
        Column("detail", String),
        Column("width", Integer),
        Column("height", Integer),
        Column("taken_at", String),
        Column("path", String),
        Column("metadata", _JSON),
        Column("recorded_at", String),
        PrimaryKeyConstraint("index_name", "generation", "key", name="pk_items"),
    )
    op.create_table(
        "builds",
        Column("index_name", _NAME),
        Column("generation", _NAME),
        Column("base", _NAME),
        Column("requested_model", String, nullable=False),
        Column("source", String, nullable=False),
        Column("promoted", Boolean, nullable=False),
        PrimaryKeyConstraint("index_name", "generation", name="pk_builds"),
    )
    op.create_table(
        "runs",
        Column("id", _NAME),
        Column("index_name", _NAME, nullable=False),
        Column("source", String, nullable=False),
        Column("started", String, nullable=False),
        Column("finished", String),
        Column("outcome", String),
        Column("generation", _NAME),
        Column("shard_index", Integer, nullable=False, server_default="0"),
        Column("shard_count", Integer, nullable=False, server_default="1"),
        Column("indexed", Integer),
        Column("unchanged", Integer),
        Column("skipped", Integer),
        Column("deleted", Integer),
        PrimaryKeyConstraint("id", name="pk_runs"),
    )


def _fill(statement: str, name: str) -> None:
    op.execute(text(statement).bindparams(name=name))
