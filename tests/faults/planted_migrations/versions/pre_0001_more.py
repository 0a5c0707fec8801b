"""What a later version might add to the tables that are written most."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
TABLES = ("data.series", "data.klines", "backtest.backtests", "results.results")


def upgrade() -> None:
    """Add columns, and an index beside running writes; no two tables are locked at once, and what is done stays."""
    with op.get_context().autocommit_block():
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS planted text")
            op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS planted_count bigint NOT NULL DEFAULT 0")
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS planted ON backtest.backtests (create_time)")
