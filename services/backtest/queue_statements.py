"""The SQL of what has not started: creating, choosing, delivering, and taking the result of an equal backtest."""

from __future__ import annotations

from services.backtest.jobs import LEASE_S, QUEUE, REDELIVER_S, WAKE_CHANNEL
from services.backtest.statements import JOB_COLUMNS, ROW, transition

_WAITING = "state = 'QUEUED' AND delivered_until IS NULL AND leader_id IS NULL"
_FOLLOWING = "state = 'QUEUED' AND leader_id IS NOT NULL"
_EQUAL = "tenant_id = %(tenant)s AND reuse_key = %(reuse_key)s::bytea"
_TAKEABLE = f"{_EQUAL} AND state = 'SUCCEEDED' AND reads IS NOT NULL AND NOT result_expired AND NOT backtest_id = ANY (%(looked_at)s::uuid[])"
_TODAY = "(clock_timestamp() AT TIME ZONE 'UTC')::date"
_SPENT = f"coalesce((SELECT klines FROM backtest.usage WHERE tenant_id = %(tenant)s AND day = {_TODAY}), 0)"

_REUSED_BODY = "jsonb_build_object('result_id', result_id, 'reused', true)"

CREATE = f"""
WITH waiting AS (
  SELECT count(*) AS everyones, count(*) FILTER (WHERE tenant_id = %(tenant)s) AS own, count(*) FILTER (WHERE priority >= %(priority)s) AS ahead
  FROM backtest.backtests WHERE {_WAITING}
), following AS (
  SELECT count(*) AS everyones, count(*) FILTER (WHERE tenant_id = %(tenant)s) AS own FROM backtest.backtests WHERE {_FOLLOWING}
), leader AS (
  SELECT backtest_id FROM backtest.backtests
  WHERE {_EQUAL} AND state IN ('QUEUED', 'RUNNING') AND leader_id IS NULL ORDER BY create_time LIMIT 1
), made AS (
  INSERT INTO backtest.backtests (tenant_id, backtest_id, request_id, request_hash, config, strategy, priority, deadline_s,
                                  traceparent, klines, reuse_key, leader_id, state, create_time, last_sequence)
  SELECT %(tenant)s, %(backtest_id)s, %(request_id)s, %(request_hash)s, %(config)s, %(strategy)s, %(priority)s, %(deadline_s)s,
         %(traceparent)s, %(klines)s, %(reuse_key)s, (SELECT backtest_id FROM leader), 'QUEUED', clock_timestamp(), 1
  FROM waiting, following
  WHERE waiting.everyones + following.everyones < %(max_queued)s
    AND (%(own_queued)s::int8 IS NULL OR waiting.own + following.own < %(own_queued)s::int8)
    AND (%(daily_klines)s::int8 IS NULL OR %(klines)s + {_SPENT} <= %(daily_klines)s::int8)
    AND NOT EXISTS (SELECT FROM backtest.backtests WHERE {_TAKEABLE})
  ON CONFLICT (tenant_id, request_id) DO NOTHING
  RETURNING *
), raised AS (
  UPDATE backtest.backtests AS job SET priority = made.priority FROM made
  WHERE job.backtest_id = made.leader_id AND job.state = 'QUEUED' AND job.priority < made.priority
), spent AS (
  INSERT INTO backtest.usage (tenant_id, day, klines) SELECT tenant_id, {_TODAY}, klines FROM made WHERE %(daily_klines)s::int8 IS NOT NULL
  ON CONFLICT (tenant_id, day) DO UPDATE SET klines = usage.klines + EXCLUDED.klines
), event AS (
  INSERT INTO backtest.events (tenant_id, backtest_id, sequence, event_time, state, attempt, body)
  SELECT tenant_id, backtest_id, 1, create_time, state, 0, jsonb_build_object('queue_position', ahead) FROM made, waiting
)
SELECT {JOB_COLUMNS}, request_hash, leader_id IS NOT NULL AS follows, pg_notify('{WAKE_CHANNEL}', '{QUEUE} ' || %(origin)s) FROM made
"""

LOCK = "SELECT pg_advisory_xact_lock(%(kind)s, hashtext(%(subject)s))"

REFUSAL = f"""
SELECT (SELECT count(*) FROM backtest.backtests WHERE state = 'QUEUED' AND tenant_id = %(tenant)s) AS own,
  {_SPENT} AS spent, extract(epoch FROM {_TODAY} + 1 - clock_timestamp() AT TIME ZONE 'UTC')::float8 AS left_of_day_s
"""

EXPIRE_DELIVERIES = "UPDATE backtest.backtests SET delivered_until = NULL WHERE delivered_until <= clock_timestamp() AND state = 'QUEUED'"

BUSY = """
SELECT tenant_id, count(*) AS n FROM (
  SELECT tenant_id FROM backtest.backtests WHERE state = 'RUNNING'
  UNION ALL SELECT tenant_id FROM backtest.backtests WHERE delivered_until IS NOT NULL
) AS busy GROUP BY tenant_id
"""

SLOTS = "SELECT coalesce(sum(slots), 0)::int8 AS slots FROM backtest.pools WHERE lease_until > clock_timestamp()"

CLOCKS = "SELECT priority, max(started) AS clock FROM backtest.queues GROUP BY priority"

# The queues that hold something, found by hopping along the index, each with those of its backtests that are next.
QUEUES = f"""
WITH RECURSIVE queue AS (
  (SELECT tenant_id, priority FROM backtest.backtests WHERE {_WAITING} ORDER BY tenant_id, priority LIMIT 1)
  UNION ALL
  SELECT next.tenant_id, next.priority FROM queue, LATERAL (
    SELECT tenant_id, priority FROM backtest.backtests
    WHERE {_WAITING} AND (tenant_id, priority) > (queue.tenant_id, queue.priority) ORDER BY tenant_id, priority LIMIT 1
  ) AS next
)
SELECT queue.tenant_id, queue.priority, coalesce(tags.started, 0) AS started, coalesce(tags.finished, 0) AS finished,
  extract(epoch FROM clock_timestamp() - greatest(head.create_time, tags.served_time))::float8 AS passed_over_s, head.ids, head.klines
FROM queue LEFT JOIN backtest.queues AS tags USING (tenant_id, priority), LATERAL (
  SELECT array_agg(backtest_id::text) AS ids, array_agg(klines) AS klines, min(create_time) AS create_time FROM (
    SELECT backtest_id, klines, create_time FROM backtest.backtests
    WHERE {_WAITING} AND tenant_id = queue.tenant_id AND priority = queue.priority ORDER BY create_time, backtest_id LIMIT %(slots)s
  ) AS first
) AS head
"""

DELIVER = f"""
WITH delivered AS (
  UPDATE backtest.backtests SET delivered_until = clock_timestamp() + interval '{REDELIVER_S} s'
  WHERE backtest_id = ANY (%(ids)s::uuid[]) AND {_WAITING} RETURNING backtest_id
), tags AS (
  INSERT INTO backtest.queues (tenant_id, priority, started, finished, served_time)
  SELECT *, clock_timestamp() FROM unnest(%(tenants)s::text[], %(priorities)s::int2[], %(started)s::float8[], %(finished)s::float8[])
  ON CONFLICT (tenant_id, priority) DO UPDATE SET started = EXCLUDED.started, finished = EXCLUDED.finished, served_time = EXCLUDED.served_time
)
SELECT backtest_id::text AS backtest_id FROM delivered
"""

ANNOUNCE = f"""
WITH gone AS (DELETE FROM backtest.pools WHERE lease_until < clock_timestamp() - interval '1 day')
INSERT INTO backtest.pools (pool_id, slots, lease_until) VALUES (%(pool_id)s, %(slots)s, clock_timestamp() + interval '{LEASE_S} s')
ON CONFLICT (pool_id) DO UPDATE SET slots = EXCLUDED.slots, lease_until = EXCLUDED.lease_until
"""

WAKE = f"SELECT pg_notify('{WAKE_CHANNEL}', '{QUEUE}')"

BY_REQUEST_ID = f"""
SELECT {JOB_COLUMNS}, request_hash, leader_id IS NOT NULL AS follows FROM backtest.backtests WHERE tenant_id = %(tenant)s AND request_id = %(request_id)s
"""

FIND_EQUAL = f"""
SELECT tenant_id, backtest_id::text AS backtest_id, result_id::text AS result_id, reads FROM backtest.backtests
WHERE {_TAKEABLE} ORDER BY end_time DESC LIMIT 3
"""

FORGET_EQUAL = f"UPDATE backtest.backtests SET reuse_key = NULL WHERE {ROW} AND state = 'SUCCEEDED'"

CREATE_REUSED = f"""
WITH made AS (
  INSERT INTO backtest.backtests (tenant_id, backtest_id, request_id, request_hash, config, strategy, priority, deadline_s,
                                  traceparent, state, create_time, end_time, result_id, reused, last_sequence)
  VALUES (%(tenant)s, %(backtest_id)s, %(request_id)s, %(request_hash)s, %(config)s, %(strategy)s, %(priority)s, %(deadline_s)s,
          %(traceparent)s, 'SUCCEEDED', clock_timestamp(), clock_timestamp(), %(result_id)s, true, 1)
  ON CONFLICT (tenant_id, request_id) DO NOTHING
  RETURNING *
), event AS (
  INSERT INTO backtest.events (tenant_id, backtest_id, sequence, event_time, state, attempt, body)
  SELECT tenant_id, backtest_id, 1, create_time, state, 0, {_REUSED_BODY} FROM made
)
SELECT {JOB_COLUMNS}, request_hash, leader_id IS NOT NULL AS follows FROM made
"""

FOLLOWERS = f"""
SELECT {", ".join(f"job.{name.strip()}" for name in JOB_COLUMNS.split(","))}, job.reuse_key, job.leader_id::text AS leader_id,
  leader.state = 'SUCCEEDED' AND leader.reuse_key = job.reuse_key AND leader.reads IS NOT NULL AS is_takeable,
  leader.result_id::text AS leader_result_id, leader.reads
FROM backtest.backtests AS job LEFT JOIN backtest.backtests AS leader ON leader.backtest_id = job.leader_id
WHERE job.state = 'QUEUED' AND job.leader_id IS NOT NULL AND (leader.state IS NULL OR leader.state NOT IN ('QUEUED', 'RUNNING'))
ORDER BY job.create_time LIMIT %(limit)s
"""

FINISH_REUSED = transition(
    f"""UPDATE backtest.backtests SET state = 'SUCCEEDED', end_time = clock_timestamp(), result_id = %(result_id)s, reused = true,
    leader_id = NULL, reuse_key = NULL, last_sequence = last_sequence + 1
  WHERE {ROW} AND state = 'QUEUED' AND leader_id IS NOT NULL""",
    _REUSED_BODY,
    "state",
)

ARE_FOLLOWERS = f"SELECT EXISTS (SELECT FROM backtest.backtests WHERE {_FOLLOWING}) AS waiting"

LEAD = f"""
WITH moved AS (
  UPDATE backtest.backtests SET leader_id = NULLIF(%(backtest_id)s::uuid, backtest_id)
  WHERE tenant_id = %(tenant)s AND state = 'QUEUED' AND leader_id = %(leader_id)s RETURNING 1
)
SELECT pg_notify('{WAKE_CHANNEL}', '{QUEUE}') FROM (SELECT FROM moved LIMIT 1) AS any_moved
"""
