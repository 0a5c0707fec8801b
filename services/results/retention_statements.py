"""The SQL of retention: policies, what they keep and take, the audit. Takers skip rows that others hold, so none waits for another."""

from __future__ import annotations

from services.results.statements import AT, CLOCK, LIVE

GET_POLICY = "SELECT default_ttl_s, min_ttl_s, max_ttl_s, max_results, max_bytes FROM results.policies WHERE tenant_id = %(tenant)s"

SET_POLICY = """
INSERT INTO results.policies (tenant_id, default_ttl_s, min_ttl_s, max_ttl_s, max_results, max_bytes)
VALUES (%(tenant)s, %(default_ttl_s)s, %(min_ttl_s)s, %(max_ttl_s)s, %(max_results)s, %(max_bytes)s)
ON CONFLICT (tenant_id) DO UPDATE SET default_ttl_s = EXCLUDED.default_ttl_s, min_ttl_s = EXCLUDED.min_ttl_s,
  max_ttl_s = EXCLUDED.max_ttl_s, max_results = EXCLUDED.max_results, max_bytes = EXCLUDED.max_bytes, update_time = clock_timestamp()
"""

USAGE = f"""
WITH {CLOCK}
SELECT count(*) AS results, coalesce(sum(stored_bytes), 0)::bigint AS bytes, count(*) FILTER (WHERE pinned) AS pinned_results,
  coalesce(sum(stored_bytes) FILTER (WHERE pinned), 0)::bigint AS pinned_bytes, {AT} AS read_time
FROM results.results WHERE tenant_id = %(tenant)s AND {LIVE}
"""

LOCK_TENANT = "SELECT pg_advisory_xact_lock(hashtextextended('retention/' || %(tenant)s, 1))"
TRY_LOCK_TENANT = "SELECT pg_try_advisory_xact_lock(hashtextextended('retention/' || %(tenant)s, 1)) AS locked"

LIMITED_TENANTS = """
SELECT tenant_id FROM results.policies WHERE max_results IS NOT NULL OR max_bytes IS NOT NULL
UNION SELECT DISTINCT tenant_id FROM results.results WHERE %(everyone)s
"""

_DOOMED = """
SELECT *, CASE WHEN nth <= results - %(max_results)s::bigint THEN %(by_count)s ELSE %(by_bytes)s END::smallint AS reason
FROM (
  SELECT *, row_number() OVER cold AS nth, sum(stored_bytes) OVER cold AS freed FROM old
  WINDOW cold AS (ORDER BY last_read_time, result_id ROWS UNBOUNDED PRECEDING)
) AS colder, used
WHERE nth <= results - %(max_results)s::bigint OR freed - stored_bytes < bytes - %(max_bytes)s::bigint
"""
_USED = f"""used AS (
  SELECT count(*) AS results, coalesce(sum(stored_bytes), 0) AS bytes FROM results.results WHERE tenant_id = %(tenant)s AND {LIVE}
)"""
_COLDEST = f"""
SELECT tenant_id, result_id, stored_bytes, last_read_time FROM results.results
WHERE tenant_id = %(tenant)s AND NOT pinned AND expire_time > {AT} ORDER BY last_read_time, result_id
"""
_TAKE = f"""
emptied AS (DELETE FROM results.chunks USING gone WHERE chunks.save_id = gone.save_id),
recorded AS (
  INSERT INTO results.audit (tenant_id, delete_time, result_id, strategy, reason, stored_bytes, create_time)
  SELECT tenant_id, {AT}, result_id, strategy, reason, stored_bytes, create_time FROM gone
)"""
_GONE = "result.tenant_id, result.result_id, result.save_id, result.strategy, result.stored_bytes, result.create_time"

# Locked only as they were seen: one that was read or retained since is the coldest no more.
EVICT = f"""
WITH {CLOCK}, {_USED}, cold AS MATERIALIZED ({_COLDEST} LIMIT %(limit)s), old AS (
  SELECT result.tenant_id, result.result_id, result.stored_bytes, result.last_read_time FROM results.results AS result
  JOIN cold USING (tenant_id, result_id) WHERE result.last_read_time = cold.last_read_time AND NOT result.pinned
  FOR UPDATE OF result SKIP LOCKED
), doomed AS ({_DOOMED}), gone AS (
  DELETE FROM results.results AS result USING doomed
  WHERE result.tenant_id = doomed.tenant_id AND result.result_id = doomed.result_id AND (nth = 1 OR freed <= %(most_bytes)s)
  RETURNING {_GONE}, doomed.reason
), {_TAKE}
SELECT reason, count(*) AS results, sum(stored_bytes)::bigint AS bytes FROM gone GROUP BY reason
"""

PREVIEW = f"""
WITH {CLOCK}, {_USED}, old AS ({_COLDEST}), doomed AS ({_DOOMED}),
expired AS (
  SELECT count(*) AS results, coalesce(sum(stored_bytes), 0)::bigint AS bytes
  FROM results.results WHERE tenant_id = %(tenant)s AND NOT pinned AND expire_time <= {AT}
), lost AS (
  SELECT %(by_time)s::smallint AS reason, results, bytes FROM expired
  UNION ALL SELECT reason, count(*), sum(stored_bytes)::bigint FROM doomed GROUP BY reason
)
SELECT {AT} AS read_time, (SELECT jsonb_agg(lost ORDER BY reason) FROM lost WHERE lost.results > 0) AS losses,
  ARRAY(SELECT result_id::text FROM doomed ORDER BY nth LIMIT 100) AS result_ids
"""

SWEEP = f"""
WITH {CLOCK}, old AS (
  SELECT tenant_id, result_id, stored_bytes, expire_time FROM results.results
  WHERE NOT pinned AND expire_time <= {AT} AND expire_time >= %(after)s::timestamptz ORDER BY expire_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), oldest AS (
  SELECT *, row_number() OVER due AS nth, sum(stored_bytes) OVER due AS freed FROM old
  WINDOW due AS (ORDER BY expire_time, result_id ROWS UNBOUNDED PRECEDING)
), gone AS (
  DELETE FROM results.results AS result USING oldest
  WHERE result.tenant_id = oldest.tenant_id AND result.result_id = oldest.result_id AND (nth = 1 OR freed <= %(most_bytes)s)
  RETURNING {_GONE}, result.expire_time, %(by_time)s::smallint AS reason
), {_TAKE}
SELECT count(*) AS results, coalesce(sum(stored_bytes), 0)::bigint AS bytes, max(expire_time) AS last_expiry FROM gone
"""

BACKLOG = """
SELECT count(*) AS results, coalesce(extract(epoch FROM clock_timestamp() - min(expire_time)), 0)::float8 AS oldest_s FROM (
  SELECT expire_time FROM results.results WHERE NOT pinned AND expire_time <= clock_timestamp() ORDER BY expire_time LIMIT %(most)s
) AS due
"""

TOUCH = """
UPDATE results.results AS result SET last_read_time = clock_timestamp() FROM (
  SELECT tenant_id, result_id FROM results.results
  WHERE (tenant_id, result_id) IN (SELECT * FROM unnest(%(tenants)s::text[], %(result_ids)s::uuid[]))
    AND last_read_time < clock_timestamp() - make_interval(secs => %(at_most_every_s)s) FOR UPDATE SKIP LOCKED
) AS read WHERE result.tenant_id = read.tenant_id AND result.result_id = read.result_id
"""

LIST_AUDIT = """
SELECT result_id::text AS result_id, strategy, reason, stored_bytes, create_time, delete_time FROM results.audit
WHERE tenant_id = %(tenant)s AND (%(reason)s::smallint IS NULL OR reason = %(reason)s::smallint)
  AND (%(after_id)s::uuid IS NULL OR (delete_time, result_id) < (%(after_time)s::timestamptz, %(after_id)s::uuid))
ORDER BY delete_time DESC, result_id DESC LIMIT %(limit)s
"""

# Chunks are made beside their header or before it, so a chunk is an orphan from its first hour or never: each is looked at once.
FIND_ORPHANS = """
SELECT save_id::text AS save_id, kind, first_row, create_time,
  NOT EXISTS (SELECT FROM results.results AS result WHERE result.save_id = chunk.save_id) AS orphan
FROM results.chunks AS chunk
WHERE create_time < clock_timestamp() - make_interval(secs => %(age_s)s) AND create_time >= %(after)s::timestamptz
ORDER BY create_time LIMIT %(limit)s
"""

DELETE_ORPHANS = """
DELETE FROM results.chunks AS chunk WHERE save_id = ANY (%(save_ids)s::uuid[])
  AND NOT EXISTS (SELECT FROM results.results AS result WHERE result.save_id = chunk.save_id)
"""

FORGET = """
WITH buried AS (
  DELETE FROM results.tombstones WHERE create_time < clock_timestamp() - interval '7 days'
)
DELETE FROM results.audit WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM results.audit WHERE delete_time < clock_timestamp() - make_interval(secs => %(keep_s)s) LIMIT %(limit)s
)) RETURNING 1
"""
