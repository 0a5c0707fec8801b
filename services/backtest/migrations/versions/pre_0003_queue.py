"""Shares and limits of tenants, pools of workers elsewhere, the history of attempts, and what reuse is decided by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"
_SCHEMA = "backtest"


def upgrade() -> None:
    """Add columns and tables; each index serves one statement."""
    for column in (
        sa.Column("klines", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("worker_id", pg.UUID),
        sa.Column("attempts", pg.JSONB, nullable=False, server_default="[]"),
        sa.Column("leader_id", pg.UUID),
        sa.Column("reuse_key", sa.LargeBinary),
        sa.Column("continue_key", sa.LargeBinary),
        sa.Column("reads", pg.JSONB),
        sa.Column("continuation", sa.LargeBinary),
    ):
        op.add_column("backtests", column, schema=_SCHEMA)
    table = "ON backtest.backtests"
    op.execute("DROP INDEX backtest.backtests_queue")
    op.execute(
        f"CREATE INDEX backtests_waiting {table} (tenant_id, priority, create_time, backtest_id) "
        "WHERE state = 'QUEUED' AND delivered_until IS NULL AND leader_id IS NULL"
    )
    op.execute(f"CREATE INDEX backtests_following {table} (leader_id) WHERE state = 'QUEUED' AND leader_id IS NOT NULL")
    op.execute(f"CREATE INDEX backtests_delivered {table} (delivered_until) WHERE delivered_until IS NOT NULL")
    op.execute(f"CREATE UNIQUE INDEX backtests_id {table} (backtest_id)")
    op.execute(f"CREATE INDEX backtests_reuse {table} (tenant_id, reuse_key) WHERE reuse_key IS NOT NULL")
    op.execute(f"CREATE INDEX backtests_continue {table} (tenant_id, continue_key) WHERE continue_key IS NOT NULL")
    op.create_table(
        "queues",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("finished", sa.Double, nullable=False),
        sa.Column("served_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "priority"),
        schema=_SCHEMA,
    )
    op.create_table(
        "usage",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("klines", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "day"),
        schema=_SCHEMA,
    )
    op.create_table(
        "pools",
        sa.Column("pool_id", pg.UUID, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pool_id"),
        schema=_SCHEMA,
    )
