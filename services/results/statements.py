"""The SQL of results. Every time is the database's, read once a statement: live is what is pinned or expires after it."""

from __future__ import annotations

ROW = "tenant_id = %(tenant)s AND result_id = %(result_id)s"
CLOCK = "clock AS MATERIALIZED (SELECT clock_timestamp() AS at)"
AT = "(SELECT at FROM clock)"
LIVE = f"(pinned OR expire_time > {AT})"
COLUMNS = f"""tenant_id, result_id::text AS result_id, save_id::text AS save_id, header, stored_bytes, create_time, expire_time, pinned,
last_read_time, {AT} AS read_time"""

NOW = "SELECT clock_timestamp() AS read_time"

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%(tenant)s || '/' || %(result_id)s, 0))"

BEFORE_COMMIT = f"""
WITH {CLOCK}
SELECT greatest((SELECT fence FROM results.tombstones WHERE {ROW}), 0) AS buried,
  (SELECT fence FROM results.results WHERE {ROW}) AS fence,
  (SELECT coalesce(sum(row_count), 0) FROM results.chunks WHERE save_id = %(save_id)s) AS stored_rows, kept.*
FROM clock LEFT JOIN (SELECT {COLUMNS} FROM results.results WHERE {ROW} AND {LIVE} AND checksum = %(checksum)s AND header = %(header)s) AS kept ON true
"""

REMOVE = f"""
WITH {CLOCK}, gone AS (
  DELETE FROM results.results WHERE {ROW} RETURNING tenant_id, result_id, save_id, strategy, stored_bytes, create_time, {LIVE} AS live,
    CASE WHEN {LIVE} THEN %(reason)s ELSE %(by_time)s END::smallint AS reason
), emptied AS (DELETE FROM results.chunks USING gone WHERE chunks.save_id = gone.save_id),
recorded AS (
  INSERT INTO results.audit (tenant_id, delete_time, result_id, strategy, reason, stored_bytes, create_time)
  SELECT tenant_id, {AT}, result_id, strategy, reason, stored_bytes, create_time FROM gone WHERE reason IS NOT NULL
)
SELECT live FROM gone
"""

ADD_CHUNK = """
INSERT INTO results.chunks (save_id, kind, first_row, row_count, packing, payload)
VALUES (%(save_id)s, %(kind)s, %(first_row)s, %(row_count)s, 1, %(payload)s)
"""

COMMIT = f"""
WITH {CLOCK}, policy AS (SELECT * FROM results.policies WHERE tenant_id = %(tenant)s)
INSERT INTO results.results (tenant_id, result_id, save_id, fence, checksum, strategy, series, labels, statistics, header,
                             stored_bytes, start_time, end_time, create_time, last_read_time, expire_time)
SELECT %(tenant)s, %(result_id)s, %(save_id)s, %(fence)s, %(checksum)s, %(strategy)s, %(series)s::jsonb, %(labels)s::jsonb,
  %(statistics)s::jsonb, %(header)s, %(stored_bytes)s, %(start_time)s, %(end_time)s, at, at, at + make_interval(secs => least(
    greatest(coalesce(%(ttl_s)s::float8, (SELECT default_ttl_s FROM policy), %(default_ttl_s)s),
      (SELECT min_ttl_s FROM policy), %(min_ttl_s)s::float8),
    (SELECT max_ttl_s FROM policy), %(max_ttl_s)s::float8))
FROM clock
RETURNING {COLUMNS}
"""

GET = f"WITH {CLOCK} SELECT {COLUMNS} FROM results.results WHERE {ROW} AND {LIVE}"

GET_SEVERAL = f"""
WITH {CLOCK}
SELECT {COLUMNS} FROM results.results WHERE tenant_id = %(tenant)s AND result_id = ANY (%(result_ids)s::uuid[]) AND {LIVE}
"""

CHECK = f"""
WITH {CLOCK}
SELECT {AT} AS read_time, ARRAY(
  SELECT result_id::text FROM results.results WHERE tenant_id = %(tenant)s AND result_id = ANY (%(result_ids)s::uuid[]) AND {LIVE}
) AS result_ids
"""

CHUNK = """
SELECT chunk.first_row, chunk.row_count, chunk.packing, chunk.payload FROM results.chunks AS chunk
WHERE chunk.save_id = %(save_id)s AND chunk.kind = %(kind)s AND chunk.first_row <= %(row)s
ORDER BY chunk.first_row DESC LIMIT 1
"""

SET_TTL = f"""
WITH {CLOCK}
UPDATE results.results SET expire_time = {AT} + make_interval(secs => %(ttl_s)s), pinned = false, last_read_time = {AT}
WHERE {ROW} AND {LIVE} RETURNING {COLUMNS}
"""

EXTEND = f"""
WITH {CLOCK}
UPDATE results.results SET expire_time = greatest(expire_time, {AT} + make_interval(secs => %(ttl_s)s)), last_read_time = {AT}
WHERE {ROW} AND {LIVE} RETURNING {COLUMNS}
"""

PIN = f"""
WITH {CLOCK}
UPDATE results.results SET pinned = true, last_read_time = {AT} WHERE {ROW} AND {LIVE} RETURNING {COLUMNS}
"""

BURY = """
INSERT INTO results.tombstones (tenant_id, result_id, fence) VALUES (%(tenant)s, %(result_id)s, %(fence)s)
ON CONFLICT (tenant_id, result_id) DO UPDATE SET fence = greatest(tombstones.fence, EXCLUDED.fence)
"""

FORGET_SAVE = """
DELETE FROM results.chunks WHERE save_id = %(save_id)s
AND NOT EXISTS (SELECT FROM results.results WHERE save_id = %(save_id)s)
"""

_SORT = {
    "create_time": "create_time",
    "statistic": "coalesce((statistics->%(order_by)s::text)::float8, %(undefined)s::float8)",
}


def list_statement(*, by_statistic: bool, ascending: bool) -> str:
    """Return the statement of a page by create_time or by a statistic, after the last one seen; bytes of headers bound it, too."""
    sort, cast = (_SORT["statistic"], "float8") if by_statistic else (_SORT["create_time"], "timestamptz")
    way, beyond = ("ASC", ">") if ascending else ("DESC", "<")
    return f"""
WITH {CLOCK}, page AS (
SELECT {COLUMNS}, {sort} AS sort_key FROM results.results
WHERE tenant_id = %(tenant)s AND {LIVE}
  AND (%(strategy)s::text IS NULL OR strategy = %(strategy)s::text)
  AND (%(series)s::jsonb IS NULL OR series @> %(series)s::jsonb)
  AND labels @> %(labels)s::jsonb
  AND (%(created_from)s::timestamptz IS NULL OR create_time >= %(created_from)s::timestamptz)
  AND (%(created_before)s::timestamptz IS NULL OR create_time < %(created_before)s::timestamptz)
  AND (%(range_from)s::timestamptz IS NULL OR end_time > %(range_from)s::timestamptz)
  AND (%(range_before)s::timestamptz IS NULL OR start_time < %(range_before)s::timestamptz)
  AND NOT EXISTS (
    SELECT FROM jsonb_to_recordset(%(bounds)s::jsonb) AS wanted (name text, min float8, max float8)
    WHERE ((statistics->wanted.name)::float8 BETWEEN coalesce(wanted.min, '-Infinity') AND coalesce(wanted.max, 'Infinity')) IS NOT TRUE
  )
  AND (%(after_id)s::uuid IS NULL OR ({sort}, result_id) {beyond} (%(after_key)s::{cast}, %(after_id)s::uuid))
ORDER BY {sort} {way}, results.result_id {way} LIMIT %(limit)s
), sized AS (
  SELECT *, count(*) OVER () AS found, row_number() OVER so_far AS nth, sum(octet_length(header)) OVER so_far AS header_bytes FROM page
  WINDOW so_far AS (ORDER BY sort_key {way}, result_id::uuid {way} ROWS UNBOUNDED PRECEDING)
)
SELECT * FROM sized WHERE nth = 1 OR header_bytes <= %(most_bytes)s ORDER BY nth
"""
