"""Tables of the schema `backtest`: backtests, their events, verdicts on strategies, results still to be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

SCHEMA = "backtest"
metadata = sa.MetaData(schema=SCHEMA)

backtests = sa.Table(
    "backtests",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("backtest_id", pg.UUID(as_uuid=False), primary_key=True),
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
    sa.Column("result_id", pg.UUID(as_uuid=False)),
    sa.Column("reused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("failure", pg.JSONB),
    sa.UniqueConstraint("tenant_id", "request_id", name="backtests_request_id"),
    sa.CheckConstraint("state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')", name="backtests_state"),
    sa.Index(
        "backtests_queue",
        sa.text("priority DESC"),
        "create_time",
        postgresql_where=sa.text("state = 'QUEUED'"),
    ),
    sa.Index("backtests_running", "lease_until", postgresql_where=sa.text("state = 'RUNNING'")),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("backtest_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("body", pg.JSONB, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant_id", "backtest_id"],
        ["backtest.backtests.tenant_id", "backtest.backtests.backtest_id"],
        ondelete="CASCADE",
    ),
)

strategy_verdicts = sa.Table(
    "strategy_verdicts",
    metadata,
    sa.Column("code_hash", sa.Text, primary_key=True),
    sa.Column("strategy", sa.Text, primary_key=True),
    sa.Column("kline_index", sa.Integer),
    sa.Column("unproven", sa.Text),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    comment="What was seen of a strategy when it was looked at: it looks ahead at kline_index, or nothing was proven",
)

unwanted_results = sa.Table(
    "unwanted_results",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("backtest_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    comment="Outbox: results that attempts of an unsuccessful backtest may have saved and that must be deleted",
)
