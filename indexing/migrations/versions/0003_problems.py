"""What a listing could not use is kept beside the files, so that whoever completes a generation need not list again."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, PrimaryKeyConstraint, String

revision = "0003"
down_revision = "0002"

_NAME = String().with_variant(String(collation="C"), "postgresql")


def upgrade() -> None:
    """An empty table: what earlier listings met is in their manifests."""
    op.create_table(
        "problems",
        Column("index_name", _NAME),
        Column("generation", _NAME),
        Column("shard_count", Integer, autoincrement=False),
        Column("shard_index", Integer, autoincrement=False),
        Column("position", Integer, autoincrement=False),
        Column("key", String, nullable=False),
        Column("reason", String, nullable=False),
        Column("sentence", String, nullable=False),
        PrimaryKeyConstraint("index_name", "generation", "shard_count", "shard_index", "position", name="pk_problems"),
    )


def downgrade() -> None:
    """The next run lists the source again and meets them again."""
    op.drop_table("problems")
