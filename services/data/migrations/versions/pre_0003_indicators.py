"""Stored indicator series and their values."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables; like klines, values are read by their covering key alone."""
    op.execute("""
        CREATE TABLE data.indicator_series (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            venue text COLLATE "C" NOT NULL,
            market_type text COLLATE "C" NOT NULL,
            symbol text COLLATE "C" NOT NULL,
            name text COLLATE "C" NOT NULL,
            revision bigint NOT NULL DEFAULT 0,
            rewrite_revision bigint NOT NULL DEFAULT 0,
            first_open_time bigint,
            last_open_time bigint,
            value_count bigint NOT NULL DEFAULT 0,
            CONSTRAINT indicator_series_identity UNIQUE (venue, market_type, symbol, name)
        ) WITH (fillfactor = 50)
    """)
    op.execute("""
        CREATE TABLE data.indicator_values (
            series_id bigint NOT NULL,
            open_time bigint NOT NULL,
            value double precision NOT NULL,
            CONSTRAINT indicator_values_pkey PRIMARY KEY (series_id, open_time) INCLUDE (value)
        ) WITH (
            autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
            autovacuum_vacuum_scale_factor = 0.02
        )
    """)
