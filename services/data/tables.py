"""Tables of the schema `data`: series, their klines, and one row per block of klines."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA = "data"
metadata = sa.MetaData(schema=SCHEMA)

_NAME = sa.Text(collation="C")

series = sa.Table(
    "series",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("venue", _NAME, nullable=False),
    sa.Column("market_type", _NAME, nullable=False),
    sa.Column("symbol", _NAME, nullable=False),
    sa.Column("interval", _NAME, nullable=False),
    sa.Column("span_ms", sa.BigInteger, nullable=False),  # orders the intervals
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("first_open_time", sa.BigInteger),
    sa.Column("last_open_time", sa.BigInteger),
    sa.Column("kline_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("gap_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("venue", "market_type", "symbol", "interval", name="series_identity"),
)

klines = sa.Table(
    "klines",
    metadata,
    sa.Column("series_id", sa.BigInteger, nullable=False),
    sa.Column("open_time", sa.BigInteger, nullable=False),
    sa.Column("open", sa.Double, nullable=False),
    sa.Column("high", sa.Double, nullable=False),
    sa.Column("low", sa.Double, nullable=False),
    sa.Column("close", sa.Double, nullable=False),
    sa.Column("volume", sa.Double, nullable=False),
    sa.Column("quote_volume", sa.Double),
    sa.Column("trade_count", sa.BigInteger),
    sa.Column("taker_buy_base_volume", sa.Double),
    sa.Column("taker_buy_quote_volume", sa.Double),
    sa.PrimaryKeyConstraint(
        "series_id", "open_time", name="klines_pkey", postgresql_include=["open", "high", "low", "close", "volume"]
    ),
)

kline_blocks = sa.Table(
    "kline_blocks",
    metadata,
    sa.Column("series_id", sa.BigInteger, sa.ForeignKey("data.series.id", ondelete="CASCADE"), nullable=False),
    sa.Column("block", sa.BigInteger, nullable=False),
    sa.Column("kline_count", sa.Integer, nullable=False),
    sa.Column("first_open_time", sa.BigInteger),
    sa.Column("last_open_time", sa.BigInteger),
    sa.Column("gap_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("append_revision", sa.BigInteger, nullable=False),
    sa.Column("rewrite_revision", sa.BigInteger, nullable=False),
    sa.Column("rewritten_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.PrimaryKeyConstraint("series_id", "block", name="kline_blocks_pkey"),
)

refused_klines = sa.Table(
    "refused_klines",
    metadata,
    sa.Column("series_id", sa.BigInteger, sa.ForeignKey("data.series.id", ondelete="CASCADE"), nullable=False),
    sa.Column("field", _NAME, nullable=False),
    sa.Column("reason", _NAME, nullable=False),
    sa.Column("kline_count", sa.BigInteger, nullable=False),
    sa.Column("first_open_time", sa.BigInteger, nullable=False),
    sa.Column("last_open_time", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("series_id", "field", "reason", name="refused_klines_pkey"),
)

sealed_blocks = sa.Table(
    "sealed_blocks",
    metadata,
    sa.Column("series_id", sa.BigInteger, sa.ForeignKey("data.series.id", ondelete="CASCADE"), nullable=False),
    sa.Column("block", sa.BigInteger, nullable=False),
    sa.Column("rewrite_revision", sa.BigInteger, nullable=False),
    sa.Column("kline_count", sa.Integer, nullable=False),
    sa.Column("last_open_time", sa.BigInteger, nullable=False),
    *(sa.Column(column.name, sa.LargeBinary) for column in klines.columns if column.name != "series_id"),
    sa.PrimaryKeyConstraint("series_id", "block", name="sealed_blocks_pkey"),
)

indicator_series = sa.Table(
    "indicator_series",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("venue", _NAME, nullable=False),
    sa.Column("market_type", _NAME, nullable=False),
    sa.Column("symbol", _NAME, nullable=False),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rewrite_revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("first_open_time", sa.BigInteger),
    sa.Column("last_open_time", sa.BigInteger),
    sa.Column("value_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("venue", "market_type", "symbol", "name", name="indicator_series_identity"),
)

indicator_values = sa.Table(
    "indicator_values",
    metadata,
    sa.Column("series_id", sa.BigInteger, nullable=False),
    sa.Column("open_time", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.PrimaryKeyConstraint("series_id", "open_time", name="indicator_values_pkey", postgresql_include=["value"]),
)
