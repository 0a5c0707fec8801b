"""The SQL of klines; parameters are psycopg's %(name)s. A revision is bumped under the lock of the series row only.

Every statement that writes leaves block rows and series row right together, in the transaction that changed the klines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
_OPEN_TIME = "open_time"
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

LIST_SIBLINGS = """
SELECT venue, market_type, symbol, interval, first_open_time, last_open_time, kline_count, revision, gap_count
FROM data.series
WHERE venue = %(venue)s AND market_type = %(market_type)s AND symbol = %(symbol)s AND kline_count > 0
"""

FIND_SERIES = f"SELECT id, revision FROM data.series WHERE {_IDENTITY}"


def _sent(name: str) -> str:
    return f"NULLIF({name}, {_MISSING[name]}) AS {name}" if name in _MISSING else name


_VALUES = ", ".join(VALUE_COLUMNS)
_TYPES = {"trade_count": "int8"}

# What is there is looked up in the snapshot from before the insert; nobody else writes under the lock. (That xmax is 0
# in an inserted row would tell it too, but not where the table is partitioned.)
UPSERT_KLINES = f"""
WITH sent AS (
  SELECT open_time, {", ".join(_sent(name) for name in VALUE_COLUMNS)}
  FROM unnest(%(open_time_ms)s::int8[], {", ".join(f"%({name})s::{_TYPES.get(name, 'float8')}[]" for name in VALUE_COLUMNS)})
    AS t (open_time, {_VALUES})
), known AS (
  SELECT open_time FROM sent JOIN data.klines k USING (open_time) WHERE k.series_id = %(series_id)s::int8
), written AS (
  INSERT INTO data.klines AS k (series_id, open_time, {_VALUES})
  SELECT %(series_id)s::int8, open_time, {_VALUES} FROM sent
  ON CONFLICT (series_id, open_time) DO UPDATE
    SET {", ".join(f"{name} = EXCLUDED.{name}" for name in VALUE_COLUMNS)}
    WHERE ({", ".join(f"k.{name}" for name in VALUE_COLUMNS)})
      IS DISTINCT FROM ({", ".join(f"EXCLUDED.{name}" for name in VALUE_COLUMNS)})
  RETURNING open_time
), changed AS (
  SELECT open_time / %(block_span)s::int8 AS block,
    count(*) - count(known.open_time) AS inserted, count(known.open_time) AS updated,
    min(open_time) AS first, max(open_time) AS last,
    bool_or(open_time > %(last_open_time)s::int8) AS appended,
    bool_or(open_time <= %(last_open_time)s::int8) AS rewritten
  FROM written LEFT JOIN known USING (open_time) GROUP BY 1
), blocks AS (
  INSERT INTO data.kline_blocks AS b
    (series_id, block, kline_count, first_open_time, last_open_time, append_revision, rewrite_revision, rewritten_count)
  SELECT %(series_id)s::int8, block, inserted, first, last,
    CASE WHEN appended THEN %(revision)s::int8 ELSE 0 END, CASE WHEN rewritten THEN %(revision)s::int8 ELSE 0 END, updated
  FROM changed
  ON CONFLICT (series_id, block) DO UPDATE SET
    kline_count = b.kline_count + EXCLUDED.kline_count,
    first_open_time = least(b.first_open_time, EXCLUDED.first_open_time),
    last_open_time = greatest(b.last_open_time, EXCLUDED.last_open_time),
    append_revision = greatest(b.append_revision, EXCLUDED.append_revision),
    rewrite_revision = greatest(b.rewrite_revision, EXCLUDED.rewrite_revision),
    rewritten_count = b.rewritten_count + EXCLUDED.rewritten_count
)
SELECT block, inserted, updated FROM changed
"""

# Klines after the last one stored need no look for what is there: they are copied in, and their blocks only grow.
APPEND_BLOCKS = """
INSERT INTO data.kline_blocks AS b
  (series_id, block, kline_count, first_open_time, last_open_time, gap_count, append_revision, rewrite_revision)
SELECT %(series_id)s::int8, block, kline_count, first, last, gap_count, %(revision)s::int8, 0
FROM unnest(%(block)s::int8[], %(kline_count)s::int8[], %(first)s::int8[], %(last)s::int8[], %(gap_count)s::int8[])
  AS t (block, kline_count, first, last, gap_count)
ON CONFLICT (series_id, block) DO UPDATE SET
  kline_count = b.kline_count + EXCLUDED.kline_count,
  first_open_time = coalesce(b.first_open_time, EXCLUDED.first_open_time),
  last_open_time = EXCLUDED.last_open_time,
  gap_count = b.gap_count + EXCLUDED.gap_count
    + coalesce(EXCLUDED.first_open_time - b.last_open_time > %(max_step)s::int8, false)::int,
  append_revision = EXCLUDED.append_revision
"""

APPEND_SERIES = """
UPDATE data.series
SET revision = %(revision)s::int8, kline_count = kline_count + %(added)s::int8,
  first_open_time = coalesce(first_open_time, %(first_ms)s::int8), last_open_time = %(last_ms)s::int8,
  gap_count = gap_count + %(gaps)s::int8 + coalesce(%(first_ms)s::int8 - last_open_time > %(max_step)s::int8, false)::int
WHERE id = %(series_id)s::int8
"""

RECORD_REFUSED = """
INSERT INTO data.refused_klines AS r (series_id, field, reason, kline_count, first_open_time, last_open_time)
SELECT %(series_id)s::int8, field, reason, kline_count, first, last
FROM unnest(%(field)s::text[], %(reason)s::text[], %(kline_count)s::int8[], %(first)s::int8[], %(last)s::int8[])
  AS t (field, reason, kline_count, first, last)
ON CONFLICT (series_id, field, reason) DO UPDATE SET
  kline_count = r.kline_count + EXCLUDED.kline_count,
  first_open_time = least(r.first_open_time, EXCLUDED.first_open_time),
  last_open_time = greatest(r.last_open_time, EXCLUDED.last_open_time)
"""

LIST_REWRITTEN = """
SELECT coalesce(first_open_time, block * %(block_span)s::int8), coalesce(last_open_time, block * %(block_span)s::int8),
  rewritten_count
FROM data.kline_blocks
WHERE series_id = %(series_id)s::int8 AND rewritten_count > 0
  AND block BETWEEN %(first_block)s::int8 AND %(last_block)s::int8
ORDER BY block
"""

LIST_REFUSED = """
SELECT field, reason, kline_count, first_open_time, last_open_time FROM data.refused_klines
WHERE series_id = %(series_id)s::int8 AND last_open_time >= %(start)s::int8 AND first_open_time < %(end)s::int8
ORDER BY first_open_time, field, reason
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
SET (kline_count, rewritten_count, first_open_time, last_open_time) = (
    SELECT count(*), b.rewritten_count + b.kline_count - count(*), min(k.open_time), max(k.open_time) FROM data.klines k
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

# Without a gap the klines of a stretch are as many as fit into it; months, being unequal, are counted.
_COUNT = """
CASE WHEN b.kline_count = 0 OR b.last_open_time < {start} OR b.first_open_time >= {end} THEN 0
  WHEN b.first_open_time >= {start} AND b.last_open_time < {end} THEN b.kline_count
  WHEN b.gap_count = 0 AND %(full_step)s::int8 > 1 THEN
    (least({end} - 1, b.last_open_time) - b.first_open_time) / %(full_step)s::int8
    - CASE WHEN {start} <= b.first_open_time THEN -1 ELSE ({start} - 1 - b.first_open_time) / %(full_step)s::int8 END
  ELSE (
    SELECT count(*) FROM data.klines k WHERE k.series_id = s.id
      AND k.open_time >= greatest({start}, b.first_open_time) AND k.open_time < least({end}, b.last_open_time + 1)
  ) END"""
_START, _END, _RESUME = "%(start)s::int8", "%(end)s::int8", "%(resume)s::int8"

# One statement, so one snapshot: only the blocks at the edges of the range count their klines.
LOAD_SNAPSHOT = f"""
SELECT s.id, s.revision, coalesce(s.first_open_time, 0), coalesce(s.last_open_time, 0), b.block, b.kline_count,
  coalesce(b.first_open_time, 0), coalesce(b.last_open_time, 0), b.gap_count, b.rewrite_revision,
  coalesce(sealed.kline_count, 0), coalesce(sealed.last_open_time, 0),
  {_COUNT.format(start=_START, end=_END)} AS in_range,
  {_COUNT.format(start=_START, end=_RESUME)} AS before_resume
FROM data.series s
LEFT JOIN data.kline_blocks b ON b.series_id = s.id
  AND b.block BETWEEN %(first_block)s::int8 AND %(last_block)s::int8
LEFT JOIN data.sealed_blocks sealed ON (sealed.series_id, sealed.block) = (b.series_id, b.block)
  AND sealed.rewrite_revision = b.rewrite_revision
WHERE {_IDENTITY}
ORDER BY b.block
"""

LAST_REWRITE = """
SELECT coalesce(max(rewrite_revision), 0) FROM data.kline_blocks
WHERE series_id = %(series_id)s::int8 AND block BETWEEN %(first_block)s::int8 AND %(last_block)s::int8
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


def copy_klines(columns: Iterable[str]) -> str:
    """Return the statement that copies rows of these columns in."""
    return f"COPY data.klines ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"


def read_block(columns: Sequence[str]) -> str:
    """Return the statement that reads a stretch of a block as one row: its rewrite_revision, then each column glued."""
    names = [column_name(name) for name in columns]
    inner = ", ".join(f"COALESCE({name}, {_MISSING[name]}) AS {name}" if name in _MISSING else name for name in names)
    return f"""
SELECT b.rewrite_revision, k.* FROM data.kline_blocks b CROSS JOIN LATERAL (
  SELECT {", ".join(_glued(name) for name in names)} FROM (
    SELECT {inner} FROM data.klines
    WHERE series_id = %(series_id)s::int8 AND open_time BETWEEN %(first)s::int8 AND %(last)s::int8
    ORDER BY series_id, open_time
  ) ordered
) k
WHERE b.series_id = %(series_id)s::int8 AND b.block = %(block)s::int8
"""


def read_sealed(columns: Sequence[str]) -> str:
    """Return the statement that reads sealed klines: their block's rewrite_revision, then each column or NULL."""
    return f"""
SELECT b.rewrite_revision, {", ".join(f"s.{column_name(name)}" for name in columns)}
FROM data.kline_blocks b LEFT JOIN data.sealed_blocks s ON (s.series_id, s.block) = (b.series_id, b.block)
  AND (s.rewrite_revision, s.kline_count) = (%(rewrite_revision)s::int8, %(kline_count)s::int4)
WHERE b.series_id = %(series_id)s::int8 AND b.block = %(block)s::int8
"""


def seal_block(columns: Sequence[str]) -> str:
    """Return the statement that keeps columns of a block; what is kept of another revision of it goes."""
    names = [column_name(name) for name in columns]
    same = "(s.rewrite_revision, s.kline_count) = (EXCLUDED.rewrite_revision, EXCLUDED.kline_count)"
    others = [name for name in (_OPEN_TIME, *VALUE_COLUMNS) if name not in names]
    return f"""
INSERT INTO data.sealed_blocks AS s
  (series_id, block, rewrite_revision, kline_count, last_open_time, {", ".join(names)})
VALUES (%(series_id)s, %(block)s, %(rewrite_revision)s, %(kline_count)s, %(last_open_time)s,
  {", ".join(f"%({name})s" for name in columns)})
ON CONFLICT (series_id, block) DO UPDATE SET
  rewrite_revision = EXCLUDED.rewrite_revision, kline_count = EXCLUDED.kline_count,
  last_open_time = EXCLUDED.last_open_time,
  {", ".join([f"{name} = EXCLUDED.{name}" for name in names] + [f"{name} = CASE WHEN {same} THEN s.{name} END" for name in others])}
WHERE (s.rewrite_revision, s.kline_count) <= (EXCLUDED.rewrite_revision, EXCLUDED.kline_count)
"""


def column_name(name: str) -> str:
    """Return the name of a wire column in the tables."""
    return _OPEN_TIME if name == "open_time_ms" else name


def _glued(name: str) -> str:
    send = "int8send" if name in (_OPEN_TIME, "trade_count") else "float8send"
    return f"COALESCE(string_agg({send}({name}), ''::bytea), ''::bytea)"
