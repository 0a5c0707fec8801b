"""The SQL of stored indicators; parameters are psycopg's %(name)s. Revisions move under the lock of the series row."""

_IDENTITY = "venue = %(venue)s AND market_type = %(market_type)s AND symbol = %(symbol)s AND name = %(name)s"

INSERT_SERIES = """
INSERT INTO data.indicator_series (venue, market_type, symbol, name)
VALUES (%(venue)s, %(market_type)s, %(symbol)s, %(name)s)
ON CONFLICT (venue, market_type, symbol, name) DO NOTHING
"""

LOCK_SERIES = f"SELECT id, revision, last_open_time FROM data.indicator_series WHERE {_IDENTITY} FOR UPDATE"

# What is there is looked up in the snapshot from before the insert; nobody else writes under the lock.
UPSERT_VALUES = """
WITH sent AS (
  SELECT * FROM unnest(%(open_time_ms)s::int8[], %(value)s::float8[]) AS t (open_time, value)
), known AS (
  SELECT open_time FROM sent JOIN data.indicator_values v USING (open_time) WHERE v.series_id = %(series_id)s::int8
), written AS (
  INSERT INTO data.indicator_values AS v (series_id, open_time, value)
  SELECT %(series_id)s::int8, open_time, value FROM sent
  ON CONFLICT (series_id, open_time) DO UPDATE SET value = EXCLUDED.value WHERE v.value <> EXCLUDED.value
  RETURNING open_time
), counted AS (
  SELECT count(*) - count(known.open_time) AS inserted, count(known.open_time) AS updated,
    min(open_time) AS first, max(open_time) AS last
  FROM written LEFT JOIN known USING (open_time)
), changed AS (
  UPDATE data.indicator_series s
  SET revision = s.revision + 1,
    rewrite_revision = CASE WHEN c.first <= s.last_open_time THEN s.revision + 1 ELSE s.rewrite_revision END,
    first_open_time = least(s.first_open_time, c.first), last_open_time = greatest(s.last_open_time, c.last),
    value_count = s.value_count + c.inserted
  FROM counted c
  WHERE s.id = %(series_id)s::int8 AND c.inserted + c.updated > 0
)
SELECT inserted, updated FROM counted
"""

LOAD_SNAPSHOT = f"""
SELECT id, revision, rewrite_revision, coalesce(last_open_time, 0) FROM data.indicator_series WHERE {_IDENTITY}
"""

# One row: whether the series was rewritten since, and a page of values glued into columns.
_PAGE = """
SELECT s.rewrite_revision, p.* FROM data.indicator_series s CROSS JOIN LATERAL (
  SELECT coalesce(string_agg(int8send(open_time), ''::bytea), ''::bytea),
    coalesce(string_agg(float8send(value), ''::bytea), ''::bytea)
  FROM ({page}) ordered
) p
WHERE s.id = %(series_id)s::int8
"""

LOAD_PAGE = _PAGE.format(
    page="""
    SELECT open_time, value FROM data.indicator_values
    WHERE series_id = %(series_id)s::int8 AND open_time BETWEEN %(first)s::int8 AND %(last)s::int8
    ORDER BY series_id, open_time LIMIT %(limit)s::int8"""
)

LOAD_LAST_BEFORE = _PAGE.format(
    page="""
    SELECT open_time, value FROM data.indicator_values
    WHERE series_id = %(series_id)s::int8 AND open_time < %(first)s::int8
    ORDER BY series_id DESC, open_time DESC LIMIT 1"""
)

COUNT_VALUES = """
SELECT count(*), count(*) FILTER (WHERE open_time < %(resume)s::int8) FROM data.indicator_values
WHERE series_id = %(series_id)s::int8 AND open_time BETWEEN %(first)s::int8 AND %(last)s::int8
"""
