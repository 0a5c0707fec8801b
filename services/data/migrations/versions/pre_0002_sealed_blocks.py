"""Sealed blocks; what was rewritten and what was refused; vacuum that keeps up whatever the size of the table."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Count rewrites per block and refusals per series, and keep blocks that are read a second time as columns.

    A sealed block is what a read of its rows gave, as the bytes of the wire: reading it again costs Postgres a tenth,
    and nothing of what other series do to the pages of the key. It holds the first kline_count klines of its block for
    as long as the block's rewrite_revision is the one beside it. Its columns lie uncompressed: prices hardly shrink.

    With a share of the table ever more new rows would wait for the visibility map, and a series is read by its
    covering key alone only where that map is fresh. Vacuum skips what it has seen: a fixed number costs the same.
    """
    op.execute("ALTER TABLE data.kline_blocks ADD COLUMN rewritten_count bigint NOT NULL DEFAULT 0")
    op.execute("""
        CREATE TABLE data.refused_klines (
            series_id bigint NOT NULL REFERENCES data.series (id) ON DELETE CASCADE,
            field text COLLATE "C" NOT NULL,
            reason text COLLATE "C" NOT NULL,
            kline_count bigint NOT NULL,
            first_open_time bigint NOT NULL,
            last_open_time bigint NOT NULL,
            CONSTRAINT refused_klines_pkey PRIMARY KEY (series_id, field, reason)
        )
    """)
    op.execute("""
        ALTER TABLE data.klines SET (
            autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
            autovacuum_vacuum_scale_factor = 0.02
        )
    """)
    op.execute("""
        CREATE TABLE data.sealed_blocks (
            series_id bigint NOT NULL REFERENCES data.series (id) ON DELETE CASCADE,
            block bigint NOT NULL,
            rewrite_revision bigint NOT NULL,
            kline_count integer NOT NULL,
            last_open_time bigint NOT NULL,
            open_time bytea STORAGE EXTERNAL,
            open bytea STORAGE EXTERNAL,
            high bytea STORAGE EXTERNAL,
            low bytea STORAGE EXTERNAL,
            close bytea STORAGE EXTERNAL,
            volume bytea STORAGE EXTERNAL,
            quote_volume bytea STORAGE EXTERNAL,
            trade_count bytea STORAGE EXTERNAL,
            taker_buy_base_volume bytea STORAGE EXTERNAL,
            taker_buy_quote_volume bytea STORAGE EXTERNAL,
            CONSTRAINT sealed_blocks_pkey PRIMARY KEY (series_id, block)
        )
    """)
