"""Tables of the schema `backtest`: backtests, their events, shares, pools, verdicts, results to delete."""

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
    sa.Column("result_expired", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("failure", pg.JSONB),
    sa.Column("klines", sa.BigInteger, nullable=False, server_default="0", comment="It may read so many"),
    sa.Column("worker_id", pg.UUID(as_uuid=False), comment="Random per start of a worker process"),
    sa.Column("attempts", pg.JSONB, nullable=False, server_default="[]", comment="Those whose worker died, and how"),
    sa.Column("leader_id", pg.UUID(as_uuid=False), comment="An equal backtest whose result this one waits for"),
    sa.Column("reuse_key", sa.LargeBinary, comment="Equal for equal requests to the same code"),
    sa.Column("continue_key", sa.LargeBinary, comment="Equal for requests that differ in their end only"),
    sa.Column("reads", pg.JSONB, comment="What it read, with fingerprints"),
    sa.Column("continuation", sa.LargeBinary, comment="The state a longer run goes on from"),
    sa.UniqueConstraint("tenant_id", "request_id", name="backtests_request_id"),
    sa.CheckConstraint("state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')", name="backtests_state"),
    sa.Index(
        "backtests_waiting",
        "tenant_id",
        "priority",
        "create_time",
        "backtest_id",
        postgresql_where=sa.text("state = 'QUEUED' AND delivered_until IS NULL AND leader_id IS NULL"),
    ),
    sa.Index(
        "backtests_following",
        "leader_id",
        postgresql_where=sa.text("state = 'QUEUED' AND leader_id IS NOT NULL"),
    ),
    sa.Index("backtests_delivered", "delivered_until", postgresql_where=sa.text("delivered_until IS NOT NULL")),
    sa.Index("backtests_id", "backtest_id", unique=True),
    sa.Index("backtests_reuse", "tenant_id", "reuse_key", postgresql_where=sa.text("reuse_key IS NOT NULL")),
    sa.Index("backtests_continue", "tenant_id", "continue_key", postgresql_where=sa.text("continue_key IS NOT NULL")),
    sa.Index("backtests_ended", "end_time", postgresql_where=sa.text("end_time IS NOT NULL")),
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

queues = sa.Table(
    "queues",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("priority", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("finished", sa.Double, nullable=False),
    sa.Column("served_time", sa.DateTime(timezone=True), nullable=False),
    comment="Tags of fair queueing (sharing.py) of every queue that was ever served",
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("klines", sa.BigInteger, nullable=False),
    comment="Klines that the backtests of a UTC day may read, of tenants that have a quota of them",
)

pools = sa.Table(
    "pools",
    metadata,
    sa.Column("pool_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
    comment="Pools of workers that take backtests from a broker, and how many at once",
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
