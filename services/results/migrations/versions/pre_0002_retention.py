"""Retention by policy: policies, reading times and an audit; series and ranges of results as columns to filter by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0002"
down_revision = "0001"
_SCHEMA = "results"
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    """Add columns and tables; each index serves one statement."""
    for column in (
        sa.Column("last_read_time", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.Column("series", pg.JSONB, nullable=False, server_default="[]"),
        sa.Column("start_time", sa.DateTime(timezone=True)),
        sa.Column("end_time", sa.DateTime(timezone=True)),
    ):
        op.add_column("results", column, schema=_SCHEMA)
    op.execute(
        "UPDATE results.results SET series = "
        "(SELECT coalesce(jsonb_agg(jsonb_build_object('symbol', symbol)), '[]') FROM unnest(symbols) AS symbol)"
    )
    op.alter_column("results", "symbols", nullable=True, schema=_SCHEMA)
    coldest = "results.results (tenant_id, last_read_time, result_id) WHERE NOT pinned"
    op.execute(f"CREATE INDEX results_coldest ON {coldest}")
    op.execute("CREATE INDEX results_labels ON results.results USING gin (labels jsonb_path_ops)")
    packing = sa.Column("packing", sa.SmallInteger, nullable=False, server_default="0")
    op.add_column("chunks", packing, schema=_SCHEMA)
    for table in ("results", "chunks"):
        op.execute(f"ALTER TABLE results.{table} SET (autovacuum_vacuum_scale_factor = 0.02)")
    op.create_table(
        "policies",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("default_ttl_s", sa.Double),
        sa.Column("min_ttl_s", sa.Double),
        sa.Column("max_ttl_s", sa.Double),
        sa.Column("max_results", sa.BigInteger),
        sa.Column("max_bytes", sa.BigInteger),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        schema=_SCHEMA,
    )
    op.create_table(
        "audit",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("delete_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("result_id", pg.UUID, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("reason", sa.SmallInteger, nullable=False, comment="Number of RetentionReason"),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "delete_time", "result_id"),
        schema=_SCHEMA,
    )
    op.execute("CREATE INDEX audit_age ON results.audit USING brin (delete_time)")
