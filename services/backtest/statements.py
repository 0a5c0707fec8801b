"""The SQL of the life of a backtest, one statement per transition, so that each is atomic and one round trip.

Shared by the service (SQLAlchemy, asynchronous) and the worker (psycopg, synchronous); parameters are psycopg's %(name)s.
A transition moves the row, numbers and stores its event, and wakes the watchers, or does nothing at all.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

from services.backtest.jobs import CANCEL, LEASE_S, MAX_ATTEMPTS, WAKE_CHANNEL, Failure

ROW = "tenant_id = %(tenant)s AND backtest_id = %(backtest_id)s"
_HELD = f"{ROW} AND fence = %(fence)s AND state = 'RUNNING'"
_OF_WORKER = "backtest_id = %(backtest_id)s AND worker_id = %(worker_id)s AND state = 'RUNNING'"


def transition(update: str, body: str, returning: str, extra: str = "") -> str:
    """Compose a statement: update a row, store its event with the next number, notify its watchers."""
    return f"""
WITH moved AS (
  {update}
  RETURNING *
), event AS (
  INSERT INTO backtest.events (tenant_id, backtest_id, sequence, event_time, state, attempt, body)
  SELECT tenant_id, backtest_id, last_sequence, clock_timestamp(), state, attempt, {body} FROM moved
){extra}
SELECT {returning}, pg_notify('{WAKE_CHANNEL}', backtest_id || ' ' || last_sequence) FROM moved
"""


JOB_COLUMNS = """tenant_id, backtest_id::text AS backtest_id, config, request_id, state, attempt, fence, cancel_requested, create_time,
start_time, end_time, last_sequence, progress, timings_s, result_id::text AS result_id, reused, failure, result_expired"""

_UNWANTED = """, unwanted AS (
  INSERT INTO backtest.unwanted_results (tenant_id, backtest_id, fence, create_time)
  SELECT tenant_id, backtest_id, fence, clock_timestamp() FROM moved WHERE attempt > 0 AND state IN ('FAILED', 'CANCELLED')
  ON CONFLICT (tenant_id, backtest_id) DO UPDATE SET fence = EXCLUDED.fence
)"""

_TERMINAL_BODY = "jsonb_strip_nulls(jsonb_build_object('failure', failure, 'timings_s', timings_s)) || progress"

VERDICTS = "SELECT code_hash, strategy, kline_index, unproven FROM backtest.strategy_verdicts"

REMEMBER_VERDICT = """
INSERT INTO backtest.strategy_verdicts (code_hash, strategy, kline_index, unproven)
VALUES (%(code_hash)s, %(strategy)s, %(kline_index)s, %(unproven)s) ON CONFLICT DO NOTHING
"""

CANCEL_QUEUED = transition(
    f"""UPDATE backtest.backtests SET state = 'CANCELLED', end_time = clock_timestamp(), delivered_until = NULL,
    last_sequence = last_sequence + 1
  WHERE {ROW} AND state = 'QUEUED'""",
    _TERMINAL_BODY,
    "state",
    _UNWANTED,
)

ASK_CANCEL = f"""
UPDATE backtest.backtests SET cancel_requested = true WHERE {ROW} AND state = 'RUNNING' AND NOT cancel_requested
RETURNING pg_notify('{WAKE_CHANNEL}', '{CANCEL}')
"""

CLAIM = transition(
    f"""UPDATE backtest.backtests SET state = 'RUNNING', attempt = attempt + 1, fence = fence + 1, delivered_until = NULL, worker_id = %(worker_id)s,
    lease_until = clock_timestamp() + interval '{LEASE_S} s', start_time = clock_timestamp(),
    first_start_time = coalesce(first_start_time, clock_timestamp()), last_sequence = last_sequence + 1, progress = '{{}}'
  WHERE backtest_id = %(backtest_id)s AND state = 'QUEUED' AND delivered_until IS NOT NULL""",
    "'{}'::jsonb",
    """tenant_id, config, fence, attempt, traceparent, extract(epoch FROM start_time - create_time)::float8 AS queued_s,
       greatest(0, deadline_s - extract(epoch FROM clock_timestamp() - first_start_time))::float8 AS left_s""",
)

FIND_CONTINUABLE = """
SELECT result_id::text AS result_id, reads, continuation FROM backtest.backtests
WHERE tenant_id = %(tenant)s AND continue_key = %(continue_key)s AND state = 'SUCCEEDED' AND continuation IS NOT NULL
  AND (reads->0->>'end_ms')::int8 < %(end_ms)s
ORDER BY (reads->0->>'end_ms')::int8 DESC, end_time DESC LIMIT 3
"""

PROGRESS = transition(
    f"""UPDATE backtest.backtests SET progress = %(progress)s::jsonb, last_sequence = last_sequence + 1
  WHERE {_HELD}""",
    "progress",
    "cancel_requested",
)

SUCCEED = transition(
    f"""UPDATE backtest.backtests SET state = 'SUCCEEDED', end_time = clock_timestamp(), lease_until = NULL, progress = %(progress)s::jsonb,
    timings_s = %(timings_s)s::jsonb, result_id = %(result_id)s, reuse_key = %(reuse_key)s, continue_key = %(continue_key)s,
    reads = %(reads)s::jsonb, continuation = %(continuation)s, last_sequence = last_sequence + 1
  WHERE {_HELD}""",
    "jsonb_build_object('timings_s', timings_s, 'result_id', result_id, 'reused', reused) || progress",
    "state",
)

FAIL = transition(
    f"""UPDATE backtest.backtests SET state = 'FAILED', end_time = clock_timestamp(), lease_until = NULL,
    failure = %(failure)s::jsonb, timings_s = %(timings_s)s::jsonb, last_sequence = last_sequence + 1
  WHERE {_HELD}""",
    _TERMINAL_BODY,
    "state",
    _UNWANTED,
)

FINISH_CANCELLED = transition(
    f"""UPDATE backtest.backtests SET state = 'CANCELLED', end_time = clock_timestamp(), lease_until = NULL,
    last_sequence = last_sequence + 1
  WHERE {_HELD} AND cancel_requested""",
    _TERMINAL_BODY,
    "state",
    _UNWANTED,
)

_DEATHS = """attempts || jsonb_build_array(jsonb_build_object('attempt', attempt, 'worker_id', worker_id, 'start_time', start_time,
      'end_time', clock_timestamp(), 'how', %(how)s::text))"""

_HISTORY = f"""(SELECT string_agg(format('attempt %%s, %%s to %%s, worker %%s: %%s', one->>'attempt', one->>'start_time', one->>'end_time',
      one->>'worker_id', one->>'how'), E'\\n' ORDER BY (one->>'attempt')::int) FROM jsonb_array_elements({_DEATHS}) AS one)"""

_BACK_TO_QUEUE = f"""UPDATE backtest.backtests SET attempts = {_DEATHS}, last_sequence = last_sequence + 1, lease_until = NULL, progress = '{{}}',
    state = CASE WHEN cancel_requested THEN 'CANCELLED' WHEN jsonb_array_length(attempts) + 1 >= {MAX_ATTEMPTS} THEN 'FAILED' ELSE 'QUEUED' END,
    end_time = CASE WHEN cancel_requested OR jsonb_array_length(attempts) + 1 >= {MAX_ATTEMPTS} THEN clock_timestamp() END,
    failure = CASE WHEN NOT cancel_requested AND jsonb_array_length(attempts) + 1 >= {MAX_ATTEMPTS} THEN jsonb_build_object(
      'reason', 'ATTEMPTS_EXHAUSTED', 'message', 'the worker died on every one of ' || (jsonb_array_length(attempts) + 1) || ' attempts',
      'detail', {_HISTORY}) END"""

RELEASE = transition(
    f"{_BACK_TO_QUEUE} WHERE {_OF_WORKER}",
    _TERMINAL_BODY,
    "tenant_id, state",
    _UNWANTED,
)

HAND_BACK = transition(
    f"""UPDATE backtest.backtests SET lease_until = NULL, progress = '{{}}', last_sequence = last_sequence + 1,
    state = CASE WHEN cancel_requested THEN 'CANCELLED' ELSE 'QUEUED' END, end_time = CASE WHEN cancel_requested THEN clock_timestamp() END
  WHERE {_OF_WORKER}""",
    _TERMINAL_BODY,
    "state",
    _UNWANTED,
)

RESCUE = transition(
    f"""{_BACK_TO_QUEUE} WHERE state = 'RUNNING' AND lease_until < clock_timestamp()
    AND pg_postmaster_start_time() < clock_timestamp() - interval '{LEASE_S} s'""",
    _TERMINAL_BODY,
    "tenant_id, backtest_id::text AS backtest_id, state",
    _UNWANTED,
)

RENEW = f"""
UPDATE backtest.backtests AS job SET lease_until = clock_timestamp() + interval '{LEASE_S} s'
FROM unnest(%(tenants)s::text[], %(ids)s::uuid[], %(fences)s::bigint[]) AS held (tenant_id, backtest_id, fence)
WHERE job.tenant_id = held.tenant_id AND job.backtest_id = held.backtest_id AND job.fence = held.fence AND job.state = 'RUNNING'
RETURNING job.tenant_id, job.backtest_id::text AS backtest_id, job.cancel_requested
"""

EVENTS = """
SELECT sequence, event_time, state, attempt, body FROM backtest.events
WHERE tenant_id = %(tenant)s AND backtest_id = %(backtest_id)s AND sequence > %(after)s ORDER BY sequence LIMIT %(limit)s
"""

GET = f"SELECT {JOB_COLUMNS} FROM backtest.backtests WHERE {ROW}"

LIST = f"""
SELECT {JOB_COLUMNS} FROM backtest.backtests
WHERE tenant_id = %(tenant)s AND (%(after)s::uuid IS NULL OR backtest_id < %(after)s::uuid)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[])) AND (%(strategy)s::text IS NULL OR strategy = %(strategy)s::text)
ORDER BY backtest_id DESC LIMIT %(limit)s
"""

BACKLOG = """
SELECT count(*) FILTER (WHERE state = 'QUEUED') AS queued, count(*) FILTER (WHERE state = 'RUNNING') AS running,
  coalesce(extract(epoch FROM clock_timestamp() - min(create_time) FILTER (WHERE state = 'QUEUED')), 0)::float8 AS oldest_s
FROM backtest.backtests WHERE state IN ('QUEUED', 'RUNNING')
"""

UNWANTED = """
SELECT tenant_id, backtest_id::text AS backtest_id, fence FROM backtest.unwanted_results ORDER BY create_time LIMIT %(limit)s
"""

FORGET_UNWANTED = f"DELETE FROM backtest.unwanted_results WHERE {ROW}"

HELD = """
SELECT tenant_id, backtest_id::text AS backtest_id, result_id::text AS result_id FROM backtest.backtests
WHERE result_id IS NOT NULL AND NOT result_expired AND (%(after)s::uuid IS NULL OR backtest_id > %(after)s::uuid)
ORDER BY backtest_id LIMIT %(limit)s
"""

MARK_EXPIRED = """
UPDATE backtest.backtests AS job SET result_expired = true FROM unnest(%(tenants)s::text[], %(backtest_ids)s::uuid[]) AS gone (tenant_id, backtest_id)
WHERE job.tenant_id = gone.tenant_id AND job.backtest_id = gone.backtest_id AND NOT job.result_expired
"""

SWEEP = """
WITH spent AS (DELETE FROM backtest.usage WHERE day < (clock_timestamp() AT TIME ZONE 'UTC')::date - 7)
DELETE FROM backtest.backtests AS job USING (
  SELECT tenant_id, backtest_id FROM backtest.backtests
  WHERE state = %(state)s AND end_time < clock_timestamp() - make_interval(secs => %(keep_s)s) ORDER BY end_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS old WHERE job.tenant_id = old.tenant_id AND job.backtest_id = old.backtest_id RETURNING 1
"""


def failure_json(failure: Failure) -> str:
    """Return a failure as the JSON that is stored, without NUL and half characters, which Postgres cannot hold."""
    storable = {
        name: value.replace("\0", "").encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in dataclasses.asdict(failure).items()
    }
    return json.dumps(storable)


def progress_json(body: Mapping[str, object]) -> str:
    """Return progress as the JSON that is stored, which has no word for what is not finite."""
    return json.dumps(
        {name: value for name, value in body.items() if not isinstance(value, float) or math.isfinite(value)}
    )
