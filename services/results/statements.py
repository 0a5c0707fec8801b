"""The SQL of results. Every time is the database's; a result is live while pinned or not expired at this very instant."""

from __future__ import annotations

_ROW = "tenant_id = %(tenant)s AND result_id = %(result_id)s"
_LIVE = "(pinned OR expire_time > clock_timestamp())"
_COLUMNS = """tenant_id, result_id::text AS result_id, save_id::text AS save_id, header, stored_bytes, create_time, expire_time, pinned,
clock_timestamp() AS read_time"""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%(tenant)s || '/' || %(result_id)s, 0))"

BEFORE_COMMIT = f"""
SELECT greatest((SELECT fence FROM results.tombstones WHERE {_ROW}), 0) AS buried,
  (SELECT fence FROM results.results WHERE {_ROW}) AS fence,
  (SELECT checksum FROM results.results WHERE {_ROW} AND {_LIVE}) AS checksum
"""

REMOVE = f"""
WITH gone AS (DELETE FROM results.results WHERE {_ROW} RETURNING save_id, {_LIVE} AS live),
  emptied AS (DELETE FROM results.chunks USING gone WHERE chunks.save_id = gone.save_id)
SELECT live FROM gone
"""

ADD_CHUNK = """
INSERT INTO results.chunks (save_id, kind, first_row, row_count, payload)
VALUES (%(save_id)s, %(kind)s, %(first_row)s, %(row_count)s, %(payload)s)
"""

COMMIT = f"""
INSERT INTO results.results (tenant_id, result_id, save_id, fence, checksum, strategy, symbols, labels, statistics, header,
                             stored_bytes, create_time, expire_time)
VALUES (%(tenant)s, %(result_id)s, %(save_id)s, %(fence)s, %(checksum)s, %(strategy)s, %(symbols)s, %(labels)s::jsonb,
        %(statistics)s::jsonb, %(header)s, %(stored_bytes)s, clock_timestamp(),
        clock_timestamp() + make_interval(secs => %(ttl_s)s))
RETURNING {_COLUMNS}
"""

GET = f"SELECT {_COLUMNS} FROM results.results WHERE {_ROW} AND {_LIVE}"

LIST = f"""
SELECT {_COLUMNS} FROM results.results
WHERE tenant_id = %(tenant)s AND {_LIVE}
  AND (%(strategy)s::text IS NULL OR strategy = %(strategy)s::text)
  AND (%(symbol)s::text IS NULL OR %(symbol)s::text = ANY (symbols))
  AND labels @> %(labels)s::jsonb
  AND (%(after_time)s::timestamptz IS NULL OR (create_time, result_id) < (%(after_time)s::timestamptz, %(after_id)s::uuid))
ORDER BY create_time DESC, result_id DESC LIMIT %(limit)s
"""

CHUNK = """
SELECT chunk.first_row, chunk.row_count, chunk.payload FROM results.chunks AS chunk
WHERE chunk.save_id = %(save_id)s AND chunk.kind = %(kind)s AND chunk.first_row <= %(row)s
ORDER BY chunk.first_row DESC LIMIT 1
"""

SET_TTL = f"""
UPDATE results.results SET expire_time = clock_timestamp() + make_interval(secs => %(ttl_s)s), pinned = false
WHERE {_ROW} AND {_LIVE} RETURNING {_COLUMNS}
"""

EXTEND = f"""
UPDATE results.results SET expire_time = greatest(expire_time, clock_timestamp() + make_interval(secs => %(ttl_s)s))
WHERE {_ROW} AND {_LIVE} RETURNING {_COLUMNS}
"""

PIN = f"UPDATE results.results SET pinned = true WHERE {_ROW} AND {_LIVE} RETURNING {_COLUMNS}"

BURY = """
INSERT INTO results.tombstones (tenant_id, result_id, fence) VALUES (%(tenant)s, %(result_id)s, %(fence)s)
ON CONFLICT (tenant_id, result_id) DO UPDATE SET fence = greatest(tombstones.fence, EXCLUDED.fence)
"""

SWEEP = """
WITH old AS (
  SELECT tenant_id, result_id FROM results.results WHERE NOT pinned AND expire_time <= clock_timestamp()
  ORDER BY expire_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM results.results AS result USING old
  WHERE result.tenant_id = old.tenant_id AND result.result_id = old.result_id RETURNING result.save_id, result.stored_bytes
), emptied AS (DELETE FROM results.chunks USING gone WHERE chunks.save_id = gone.save_id)
SELECT count(*) AS results, coalesce(sum(stored_bytes), 0)::bigint AS bytes FROM gone
"""

SWEEP_ORPHANS = """
WITH old AS (
  SELECT save_id, kind, first_row FROM results.chunks AS chunk
  WHERE create_time < clock_timestamp() - make_interval(secs => %(age_s)s)
    AND NOT EXISTS (SELECT FROM results.results AS result WHERE result.save_id = chunk.save_id)
  LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), buried AS (
  DELETE FROM results.tombstones WHERE create_time < clock_timestamp() - interval '7 days'
)
DELETE FROM results.chunks AS chunk USING old
WHERE chunk.save_id = old.save_id AND chunk.kind = old.kind AND chunk.first_row = old.first_row RETURNING 1
"""

FORGET_SAVE = """
DELETE FROM results.chunks WHERE save_id = %(save_id)s
AND NOT EXISTS (SELECT FROM results.results WHERE save_id = %(save_id)s)
"""
