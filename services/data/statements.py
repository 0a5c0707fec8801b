"""The SQL of klines; parameters are psycopg's %(name)s. A revision is bumped under the lock of the series row only.

Every statement that writes leaves block rows and series row right together, in the transaction that changed the klines.
"""

from __future__ import annotations

from collections.abc import Sequence

VALUE_COLUMNS = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trade_count",
    "taker_buy_base_volume",
    "taker_buy_quote_volume",
)
_MISSING = {
    "quote_volume": "'NaN'::float8",
    "trade_count": "-1",
    "taker_buy_base_volume": "'NaN'::float8",
    "taker_buy_quote_volume": "'NaN'::float8",
}
_IDENTITY = "venue = %(venue)s AND market_type = %(market_type)s AND symbol = %(symbol)s AND interval = %(interval)s"

INSERT_SERIES = """
INSERT INTO data.series (venue, market_type, symbol, interval, span_ms)
VALUES (%(venue)s, %(market_type)s, %(symbol)s, %(interval)s, %(span)s)
ON CONFLICT (venue, market_type, symbol, interval) DO NOTHING
"""

LOCK_SERIES = f"SELECT id, revision, last_open_time FROM data.series WHERE {_IDENTITY} FOR UPDATE"

FIND_SERIES = f"SELECT id FROM data.series WHERE {_IDENTITY}"


def _sent(name: str) -> str:
    return f"NULLIF({name}, {_MISSING[name]}) AS {name}" if name in _MISSING else name


_VALUES = ", ".join(VALUE_COLUMNS)
_TYPES = {"trade_count": "int8"}

# xmax is 0 in a row that the statement inserted and not in one that it updated; nobody else writes under the lock.
UPSERT_KLINES = f"""
WITH sent AS (
  SELECT open_time, {", ".join(_sent(name) for name in VALUE_COLUMNS)}
  FROM unnest(%(open_time_ms)s::int8[], {", ".join(f"%({name})s::{_TYPES.get(name, 'float8')}[]" for name in VALUE_COLUMNS)})
    AS t (open_time, {_VALUES})
), written AS (
  INSERT INTO data.klines AS k (series_id, open_time, {_VALUES})
  SELECT %(series_id)s::int8, open_time, {_VALUES} FROM sent
  ON CONFLICT (series_id, open_time) DO UPDATE
    SET {", ".join(f"{name} = EXCLUDED.{name}" for name in VALUE_COLUMNS)}
    WHERE ({", ".join(f"k.{name}" for name in VALUE_COLUMNS)})
      IS DISTINCT FROM ({", ".join(f"EXCLUDED.{name}" for name in VALUE_COLUMNS)})
  RETURNING open_time, xmax = 0 AS inserted
), changed AS (
  SELECT open_time / %(block_span)s::int8 AS block,
    count(*) FILTER (WHERE inserted) AS inserted,
    count(*) FILTER (WHERE NOT inserted) AS updated,
    min(open_time) AS first, max(open_time) AS last,
    bool_or(open_time > %(last_open_time)s::int8) AS appended,
    bool_or(open_time <= %(last_open_time)s::int8) AS rewritten
  FROM written GROUP BY 1
), blocks AS (
  INSERT INTO data.kline_blocks AS b
    (series_id, block, kline_count, first_open_time, last_open_time, append_revision, rewrite_revision)
  SELECT %(series_id)s::int8, block, inserted, first, last,
    CASE WHEN appended THEN %(revision)s::int8 ELSE 0 END, CASE WHEN rewritten THEN %(revision)s::int8 ELSE 0 END
  FROM changed
  ON CONFLICT (series_id, block) DO UPDATE SET
    kline_count = b.kline_count + EXCLUDED.kline_count,
    first_open_time = least(b.first_open_time, EXCLUDED.first_open_time),
    last_open_time = greatest(b.last_open_time, EXCLUDED.last_open_time),
    append_revision = greatest(b.append_revision, EXCLUDED.append_revision),
    rewrite_revision = greatest(b.rewrite_revision, EXCLUDED.rewrite_revision)
)
SELECT block, inserted, updated FROM changed
"""

DELETE_KLINES = """
WITH gone AS (
  DELETE FROM data.klines
  WHERE series_id = %(series_id)s::int8 AND open_time >= %(start)s::int8 AND open_time < %(end)s::int8
  RETURNING open_time
)
SELECT open_time / %(block_span)s::int8 AS block, count(*) FROM gone GROUP BY 1
"""

RECOUNT_BLOCKS = """
UPDATE data.kline_blocks b
SET (kline_count, first_open_time, last_open_time) = (
    SELECT count(*), min(k.open_time), max(k.open_time) FROM data.klines k
    WHERE k.series_id = b.series_id
      AND k.open_time >= b.block * %(block_span)s::int8 AND k.open_time < (b.block + 1) * %(block_span)s::int8
  ), rewrite_revision = %(revision)s::int8
WHERE b.series_id = %(series_id)s::int8 AND b.block = ANY (%(blocks)s::int8[])
"""

# A block with as many klines as fit between its first and last has no gap and is not scanned.
RECOUNT_GAPS = """
UPDATE data.kline_blocks b
SET gap_count = CASE
    WHEN b.kline_count <= 1 OR b.kline_count = (b.last_open_time - b.first_open_time) / %(full_step)s::int8 + 1 THEN 0
    ELSE (
      SELECT count(*) FILTER (WHERE open_time - before > %(max_step)s::int8) FROM (
        SELECT open_time, lag(open_time) OVER (ORDER BY open_time) AS before FROM data.klines k
        WHERE k.series_id = b.series_id AND k.open_time BETWEEN b.first_open_time AND b.last_open_time
      ) neighbours
    ) END
WHERE b.series_id = %(series_id)s::int8 AND b.block = ANY (%(blocks)s::int8[])
"""

REFRESH_SERIES = """
UPDATE data.series s
SET revision = %(revision)s::int8, kline_count = t.kline_count, first_open_time = t.first, last_open_time = t.last,
  gap_count = t.gap_count
FROM (
  SELECT coalesce(sum(kline_count), 0) AS kline_count, min(first_open_time) AS first, max(last_open_time) AS last,
    coalesce(sum(gap_count), 0) + count(*) FILTER (WHERE first_open_time - before > %(max_step)s::int8) AS gap_count
  FROM (
    SELECT *, lag(last_open_time) OVER (ORDER BY block) AS before FROM data.kline_blocks
    WHERE series_id = %(series_id)s::int8 AND kline_count > 0
  ) b
) t
WHERE s.id = %(series_id)s::int8
"""

_COUNT = """
CASE WHEN b.kline_count = 0 OR b.last_open_time < {start} OR b.first_open_time >= {end} THEN 0
  WHEN b.first_open_time >= {start} AND b.last_open_time < {end} THEN b.kline_count
  ELSE (
    SELECT count(*) FROM data.klines k WHERE k.series_id = s.id
      AND k.open_time >= greatest({start}, b.first_open_time) AND k.open_time < least({end}, b.last_open_time + 1)
  ) END"""
_START, _END, _RESUME = "%(start)s::int8", "%(end)s::int8", "%(resume)s::int8"

# One statement, so one snapshot: only the blocks at the edges of the range count their klines.
LOAD_SNAPSHOT = f"""
SELECT s.id, s.revision, coalesce(s.last_open_time, 0), b.block, b.kline_count,
  coalesce(b.first_open_time, 0), coalesce(b.last_open_time, 0), b.rewrite_revision,
  {_COUNT.format(start=_START, end=_END)} AS in_range,
  {_COUNT.format(start=_START, end=_RESUME)} AS before_resume
FROM data.series s
LEFT JOIN data.kline_blocks b ON b.series_id = s.id
  AND b.block BETWEEN %(first_block)s::int8 AND %(last_block)s::int8
WHERE {_IDENTITY}
ORDER BY b.block
"""

LIST_BLOCKS = """
SELECT first_open_time, last_open_time, gap_count FROM data.kline_blocks
WHERE series_id = %(series_id)s::int8 AND kline_count > 0
ORDER BY block
"""

# One step more than asked for: the first may be over a gap that ends before the start.
LIST_STEPS = """
SELECT before, open_time FROM (
  SELECT open_time, lag(open_time) OVER (ORDER BY open_time) AS before FROM data.klines
  WHERE series_id = %(series_id)s::int8 AND open_time BETWEEN %(first)s::int8 AND %(last)s::int8
) neighbours
WHERE open_time - before > %(max_step)s::int8 AND open_time > %(start)s::int8
ORDER BY open_time LIMIT %(limit)s::int8 + 1
"""


def read_block(columns: Sequence[str]) -> str:
    """Return the statement that reads a stretch of a block as one row: its rewrite_revision, then each column glued."""
    inner = ", ".join(f"COALESCE({name}, {_MISSING[name]}) AS {name}" if name in _MISSING else name for name in columns)
    glued = ", ".join(_glued(name) for name in ("open_time", *columns))
    return f"""
SELECT b.rewrite_revision, k.* FROM data.kline_blocks b CROSS JOIN LATERAL (
  SELECT {glued} FROM (
    SELECT {", ".join(part for part in ("open_time", inner) if part)} FROM data.klines
    WHERE series_id = %(series_id)s::int8 AND open_time BETWEEN %(first)s::int8 AND %(last)s::int8
    ORDER BY open_time
  ) ordered
) k
WHERE b.series_id = %(series_id)s::int8 AND b.block = %(block)s::int8
"""


def _glued(name: str) -> str:
    send = "int8send" if name in ("open_time", "trade_count") else "float8send"
    return f"COALESCE(string_agg({send}({name}), ''::bytea), ''::bytea)"
