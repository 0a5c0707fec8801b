"""Backtests in Postgres: runs the statements of the life of a backtest and turns rows into domain objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from psycopg.rows import DictRow, dict_row

from services.backtest import statements
from services.backtest.jobs import (
    Created,
    Event,
    Failure,
    Job,
    JobFilter,
    JobKey,
    NewJob,
    Refused,
    Rescued,
    State,
)
from services.backtest.sharing import Limits, Queue, Waiting, choose
from services.backtest.strategies.lookahead import Finding
from services.runtime.database import Database, DriverConnection

_DISPATCH_LOCK = 0x6B6C696E65
"""Advisory lock under which running backtests are counted: two claimers cannot spend the last slot twice."""
_SUBMIT_LOCK = 0x6B6C
"""The like for what a tenant has queued and spent."""
_QUEUE_RETRY_S = 5.0


class PostgresJobStore:
    """JobStore on the schema `backtest`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, job: NewJob, limits: Limits, max_queued: int) -> Created | Refused:
        """Store a job with its first event, or return the one stored under the same request_id."""
        parameters = {
            "tenant": job.key.tenant,
            "backtest_id": job.key.backtest_id,
            "request_id": job.request_id,
            "request_hash": job.request_hash,
            "config": job.config,
            "strategy": job.strategy,
            "priority": job.priority,
            "deadline_s": job.deadline_s,
            "traceparent": job.traceparent,
            "klines": job.klines,
            "max_queued": max_queued,
            "own_queued": limits.max_queued,
            "daily_klines": limits.daily_klines,
        }
        is_limited = limits.max_queued is not None or limits.daily_klines is not None
        async with self._database.driver() if is_limited else self._database.single() as connection:
            if is_limited:  # counted one after another: two at once would both see the last place
                await _run(connection, statements.LOCK_TENANT, {"lock": _SUBMIT_LOCK, "tenant": job.key.tenant})
            rows = await _run(connection, statements.CREATE, parameters)
            if not rows:  # a request_id that was used before, or by a racing twin that has committed by now
                rows = await _run(connection, statements.BY_REQUEST_ID, parameters)
            if not rows:
                [row] = await _run(connection, statements.REFUSAL, parameters)
                return _refused(row, job, limits, max_queued)
        return _created(rows[0])

    async def find_request(self, tenant: str, request_id: str) -> Created | None:
        """Return the job stored under a request_id."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.BY_REQUEST_ID, {"tenant": tenant, "request_id": request_id})
        return _created(rows[0]) if rows else None

    async def get(self, key: JobKey) -> Job | None:
        """Return a job, None when there is none."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.GET, _key(key))
        return _job(rows[0]) if rows else None

    async def list(self, tenant: str, wanted: JobFilter) -> Sequence[Job]:
        """Return a page of jobs, newest first."""
        parameters = {
            "tenant": tenant,
            "states": [state.value for state in wanted.states] or None,
            "strategy": wanted.strategy or None,
            "after": wanted.after,
            "limit": wanted.page_size,
        }
        async with self._database.single() as connection:
            return [_job(row) for row in await _run(connection, statements.LIST, parameters)]

    async def verdicts(self) -> Mapping[tuple[str, str], Finding]:
        """Return what was seen of strategies, by (code hash, name)."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.VERDICTS, {})
        return {(row["code_hash"], row["strategy"]): Finding(row["kline_index"], row["unproven"]) for row in rows}

    async def remember_verdict(self, code_hash: str, name: str, finding: Finding) -> None:
        """Keep what was seen of a strategy."""
        parameters = {"code_hash": code_hash, "strategy": name, **dataclasses.asdict(finding)}
        async with self._database.single() as connection:
            await _run(connection, statements.REMEMBER_VERDICT, parameters)

    async def events(self, key: JobKey, after: int, limit: int) -> Sequence[Event]:
        """Return events after a sequence number, in order."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.EVENTS, {**_key(key), "after": after, "limit": limit})
        return [
            Event(row["sequence"], row["event_time"], State(row["state"]), row["attempt"], row["body"]) for row in rows
        ]

    async def cancel(self, key: JobKey) -> Job | None:
        """Cancel a queued job, ask a running one to stop, leave a terminal one; return it as it is then."""
        async with self._database.single() as connection:
            while True:
                if not await _run(connection, statements.CANCEL_QUEUED, _key(key)):
                    await _run(connection, statements.ASK_CANCEL, _key(key))
                rows = await _run(connection, statements.GET, _key(key))
                if not rows:
                    return None
                job = _job(rows[0])
                if job.state.terminal or job.cancel_requested:
                    return job  # else it changed hands between the statements: ask again

    async def dispatch(self, slots: int | None, limit: int, limits_of: Callable[[str], Limits]) -> Sequence[str]:
        """Mark queued jobs as delivered and return their ids, best first."""
        async with self._database.driver() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _DISPATCH_LOCK})
            await connection.execute(statements.EXPIRE_DELIVERIES)
            busy = {row["tenant_id"]: row["n"] for row in await _run(connection, statements.BUSY, {})}
            if slots is None:
                [row] = await _run(connection, statements.SLOTS, {})
                slots = row["slots"] - sum(busy.values())
            free = min(slots, limit - sum(busy.values()))
            queues = await _queues(connection, free) if free > 0 else ()
            if not queues:
                return ()
            clocks = {row["priority"]: row["clock"] for row in await _run(connection, statements.CLOCKS, {})}
            chosen = choose(queues, free, clocks=clocks, busy=busy, limits_of=limits_of)
            return await _deliver(connection, [one.backtest_id for one in chosen], [one for one in queues if one.taken])

    async def rescue(self) -> Sequence[Rescued]:
        """Requeue the jobs whose lease ran out, or fail those out of attempts."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.RESCUE, {"how": "its lease was not renewed"})
        return [Rescued(JobKey(row["tenant_id"], row["backtest_id"]), State(row["state"])) for row in rows]

    async def counts(self) -> Mapping[State, int]:
        """Count jobs that are queued and running."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.COUNTS, {})
        return {State.QUEUED: 0, State.RUNNING: 0} | {State(row["state"]): row["n"] for row in rows}

    async def unwanted(self, limit: int) -> Sequence[tuple[JobKey, int]]:
        """Return results to delete, with the fence up to which late saves are refused."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.UNWANTED, {"limit": limit})
        return [(JobKey(row["tenant_id"], row["backtest_id"]), row["fence"]) for row in rows]

    async def forget_unwanted(self, key: JobKey) -> None:
        """Strike a result off the list of those to delete."""
        async with self._database.single() as connection:
            await _run(connection, statements.FORGET_UNWANTED, _key(key))

    async def sweep(self, keep_s: float, limit: int) -> int:
        """Delete terminal jobs older than their retention, events with them; return how many."""
        async with self._database.single() as connection:
            return len(await _run(connection, statements.SWEEP, {"keep_s": keep_s, "limit": limit}))


async def _queues(connection: DriverConnection, slots: int) -> Sequence[Queue]:
    return [
        Queue(
            tenant=row["tenant_id"],
            priority=row["priority"],
            heads=[Waiting(*one) for one in zip(row["ids"], row["klines"], strict=True)],
            passed_over_s=row["passed_over_s"],
            started=row["started"],
            finished=row["finished"],
        )
        for row in await _run(connection, statements.QUEUES, {"slots": slots})
        if row["ids"]
    ]


async def _deliver(connection: DriverConnection, ids: Sequence[str], moved: Sequence[Queue]) -> Sequence[str]:
    """Mark jobs as delivered; return the ids of those that still waited, in their order."""
    parameters = {
        "ids": ids,
        "tenants": [one.tenant for one in moved],
        "priorities": [one.priority for one in moved],
        "started": [one.started for one in moved],
        "finished": [one.finished for one in moved],
    }
    delivered = {row["backtest_id"] for row in await _run(connection, statements.DELIVER, parameters)}
    return [one for one in ids if one in delivered]


def _refused(row: DictRow, job: NewJob, limits: Limits, max_queued: int) -> Refused:
    if limits.max_queued is not None and row["own"] >= limits.max_queued:
        return Refused(job.key.tenant, f"at most {limits.max_queued:,} backtests wait at once", _QUEUE_RETRY_S)
    if limits.daily_klines is not None and row["spent"] + job.klines > limits.daily_klines:
        spent = f"{row['spent']:,} are spent, this backtest may read {job.klines:,}"
        text = f"at most {limits.daily_klines:,} klines a day: {spent}"
        return Refused(job.key.tenant, text, row["left_of_day_s"])
    return Refused("service", f"at most {max_queued:,} backtests wait at once", _QUEUE_RETRY_S)


def _created(row: DictRow) -> Created:
    return Created(_job(row), bytes(row["request_hash"]))


def _key(key: JobKey) -> dict[str, object]:
    return {"tenant": key.tenant, "backtest_id": key.backtest_id}


async def _run(connection: DriverConnection, statement: str, parameters: Mapping[str, object]) -> Sequence[DictRow]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


def _job(row: DictRow) -> Job:
    failure = row["failure"]
    return Job(
        key=JobKey(row["tenant_id"], row["backtest_id"]),
        config=bytes(row["config"]),
        request_id=row["request_id"],
        state=State(row["state"]),
        attempt=row["attempt"],
        fence=row["fence"],
        cancel_requested=row["cancel_requested"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        last_sequence=row["last_sequence"],
        progress=row["progress"],
        timings_s=row["timings_s"],
        result_id=row["result_id"],
        reused=row["reused"],
        failure=Failure(**failure) if failure else None,
    )
