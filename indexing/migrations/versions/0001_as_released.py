"""The tables as the first release made them in each index's SQLite file, without a word on their version."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, String

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "items",
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
    op.create_table(
        "builds",
        Column("generation", String, primary_key=True),
        Column("base", String),
        Column("requested_model", String, nullable=False),
        Column("source", String, nullable=False),
        Column("promoted", Boolean, nullable=False),
    )
    op.create_table(
        "runs",
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


def downgrade() -> None:
    """Nothing is older than this: with its tables a ledger is gone."""
    for table in ("runs", "builds", "items"):
        op.drop_table(table)
