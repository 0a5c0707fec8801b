"""Tables of the schema `results`: headers, the columns they own, tombstones against late saves, policies and audit."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

SCHEMA = "results"
metadata = sa.MetaData(schema=SCHEMA)

results = sa.Table(
    "results",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("result_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("save_id", pg.UUID(as_uuid=False), nullable=False, comment="Which chunks are this result's"),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.Column("strategy", sa.Text, nullable=False),
    sa.Column("symbols", pg.ARRAY(sa.Text), comment="Of release 0.1; series says it now"),
    sa.Column("labels", pg.JSONB, nullable=False),
    sa.Column("statistics", pg.JSONB, nullable=False),
    sa.Column("header", sa.LargeBinary, nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("last_read_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    sa.Column("series", pg.JSONB, nullable=False, server_default="[]"),
    sa.Column("start_time", sa.DateTime(timezone=True), comment="Start of the backtest's range"),
    sa.Column("end_time", sa.DateTime(timezone=True), comment="End of the backtest's range"),
    sa.Index("results_newest", "tenant_id", sa.text("create_time DESC"), sa.text("result_id DESC")),
    sa.Index("results_expiring", "expire_time", postgresql_where=sa.text("NOT pinned")),
    sa.Index("results_save", "save_id", unique=True),
    sa.Index("results_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    sa.Index("results_coldest", "tenant_id", "last_read_time", "result_id", postgresql_where=sa.text("NOT pinned")),
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("save_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("first_row", sa.BigInteger, primary_key=True),
    sa.Column("row_count", sa.Integer, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    sa.Column("packing", sa.SmallInteger, nullable=False, server_default="0", comment="0: as sent, 1: packing.py"),
    sa.Index("chunks_age", "create_time"),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("default_ttl_s", sa.Double, comment="NULL, here and below: the service's"),
    sa.Column("min_ttl_s", sa.Double),
    sa.Column("max_ttl_s", sa.Double),
    sa.Column("max_results", sa.BigInteger),
    sa.Column("max_bytes", sa.BigInteger),
    sa.Column("update_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("delete_time", sa.DateTime(timezone=True), primary_key=True),
    sa.Column("result_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("strategy", sa.Text, nullable=False),
    sa.Column("reason", sa.SmallInteger, nullable=False, comment="Number of RetentionReason"),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Index("audit_age", "delete_time", postgresql_using="brin"),
)

tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("result_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False, comment="Saves under this fence or a lower one are refused"),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
)
