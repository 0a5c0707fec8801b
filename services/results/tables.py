"""Tables of the schema `results`: headers, the columns they own, and tombstones against late saves."""

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
    sa.Column("symbols", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("labels", pg.JSONB, nullable=False),
    sa.Column("statistics", pg.JSONB, nullable=False),
    sa.Column("header", sa.LargeBinary, nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("results_newest", "tenant_id", sa.text("create_time DESC"), sa.text("result_id DESC")),
    sa.Index("results_expiring", "expire_time", postgresql_where=sa.text("NOT pinned")),
    sa.Index("results_save", "save_id", unique=True),
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
    sa.Index("chunks_age", "create_time"),
)

tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("tenant_id", sa.Text, primary_key=True),
    sa.Column("result_id", pg.UUID(as_uuid=False), primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False, comment="Saves under this fence or a lower one are refused"),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
)
