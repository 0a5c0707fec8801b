"""Backtests, their events, and the outbox of unwanted results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
_SCHEMA = "backtest"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "backtests",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("backtest_id", pg.UUID, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("config", sa.LargeBinary, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("deadline_s", sa.Double, nullable=False),
        sa.Column("traceparent", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("delivered_until", sa.DateTime(timezone=True)),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_start_time", sa.DateTime(timezone=True)),
        sa.Column("start_time", sa.DateTime(timezone=True)),
        sa.Column("end_time", sa.DateTime(timezone=True)),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("progress", pg.JSONB, nullable=False, server_default="{}"),
        sa.Column("timings_s", pg.JSONB, nullable=False, server_default="{}"),
        sa.Column("result_id", pg.UUID),
        sa.Column("reused", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("failure", pg.JSONB),
        sa.PrimaryKeyConstraint("tenant_id", "backtest_id"),
        sa.UniqueConstraint("tenant_id", "request_id", name="backtests_request_id"),
        sa.CheckConstraint(
            "state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')", name="backtests_state"
        ),
        schema=_SCHEMA,
    )
    op.execute("CREATE INDEX backtests_queue ON backtest.backtests (priority DESC, create_time) WHERE state = 'QUEUED'")
    op.execute("CREATE INDEX backtests_running ON backtest.backtests (lease_until) WHERE state = 'RUNNING'")
    op.execute("CREATE INDEX backtests_ended ON backtest.backtests (end_time) WHERE end_time IS NOT NULL")
    op.execute("ALTER TABLE backtest.backtests SET (autovacuum_vacuum_scale_factor = 0.02, fillfactor = 70)")
    op.create_table(
        "events",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("backtest_id", pg.UUID, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("body", pg.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "backtest_id", "sequence"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "backtest_id"],
            ["backtest.backtests.tenant_id", "backtest.backtests.backtest_id"],
            ondelete="CASCADE",
        ),
        schema=_SCHEMA,
    )
    op.create_table(
        "unwanted_results",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("backtest_id", pg.UUID, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "backtest_id"),
        schema=_SCHEMA,
    )
