"""Series, klines and blocks of klines."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables.

    klines has no foreign key: a row is only ever written with its series row locked, and the check would cost more
    than the insert. The id of a series never leaves the service and stands in every kline twice, so it is 8 bytes.
    A series is read by its covering key alone, so the visibility map is kept fresh as rows come in.
    """
    op.execute("""
        CREATE TABLE data.series (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            venue text COLLATE "C" NOT NULL,
            market_type text COLLATE "C" NOT NULL,
            symbol text COLLATE "C" NOT NULL,
            interval text COLLATE "C" NOT NULL,
            span_ms bigint NOT NULL,
            revision bigint NOT NULL DEFAULT 0,
            first_open_time bigint,
            last_open_time bigint,
            kline_count bigint NOT NULL DEFAULT 0,
            gap_count bigint NOT NULL DEFAULT 0,
            CONSTRAINT series_identity UNIQUE (venue, market_type, symbol, interval)
        ) WITH (fillfactor = 50)
    """)
    op.execute("""
        CREATE TABLE data.klines (
            series_id bigint NOT NULL,
            open_time bigint NOT NULL,
            open double precision NOT NULL,
            high double precision NOT NULL,
            low double precision NOT NULL,
            close double precision NOT NULL,
            volume double precision NOT NULL,
            quote_volume double precision,
            trade_count bigint,
            taker_buy_base_volume double precision,
            taker_buy_quote_volume double precision,
            CONSTRAINT klines_pkey PRIMARY KEY (series_id, open_time) INCLUDE (open, high, low, close, volume)
        ) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_scale_factor = 0.02)
    """)
    op.execute("""
        CREATE TABLE data.kline_blocks (
            series_id bigint NOT NULL REFERENCES data.series (id) ON DELETE CASCADE,
            block bigint NOT NULL,
            kline_count integer NOT NULL,
            first_open_time bigint,
            last_open_time bigint,
            gap_count integer NOT NULL DEFAULT 0,
            append_revision bigint NOT NULL,
            rewrite_revision bigint NOT NULL,
            CONSTRAINT kline_blocks_pkey PRIMARY KEY (series_id, block)
        ) WITH (fillfactor = 70)
    """)
