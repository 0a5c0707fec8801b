"""Results, their chunks, and tombstones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "results",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("result_id", pg.UUID, nullable=False),
        sa.Column("save_id", pg.UUID, nullable=False, comment="Which chunks are this result's"),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("symbols", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("labels", pg.JSONB, nullable=False),
        sa.Column("statistics", pg.JSONB, nullable=False),
        sa.Column("header", sa.LargeBinary, nullable=False),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("tenant_id", "result_id"),
        schema="results",
    )
    op.execute("CREATE INDEX results_newest ON results.results (tenant_id, create_time DESC, result_id DESC)")
    op.execute("CREATE INDEX results_expiring ON results.results (expire_time) WHERE NOT pinned")
    op.execute("CREATE UNIQUE INDEX results_save ON results.results (save_id)")
    op.create_table(
        "chunks",
        sa.Column("save_id", pg.UUID, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("first_row", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.Integer, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("save_id", "kind", "first_row"),
        schema="results",
    )
    op.execute("CREATE INDEX chunks_age ON results.chunks (create_time)")
    op.execute("ALTER TABLE results.chunks ALTER COLUMN payload SET STORAGE EXTERNAL")
    op.create_table(
        "tombstones",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("result_id", pg.UUID, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False, comment="Saves under this fence or a lower one are refused"),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("tenant_id", "result_id"),
        schema="results",
    )
