"""Backtests in Postgres: runs the statements of the life of a backtest and turns rows into domain objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from psycopg.rows import DictRow, dict_row

from services.backtest import statements
from services.backtest.jobs import Created, Delivery, Event, Failure, Job, JobFilter, JobKey, NewJob, Rescued, State
from services.backtest.strategies.lookahead import Finding
from services.runtime.database import Database, DriverConnection

_DISPATCH_LOCK = (
    0x6B6C696E65  # advisory lock under which limits are counted: two claimers cannot spend the last slot twice
)


class PostgresJobStore:
    """JobStore on the schema `backtest`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, job: NewJob) -> Created:
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
        }
        async with self._database.single() as connection:
            rows = await _run(connection, statements.CREATE, parameters)
            if not rows:  # a request_id that was used before, or by a racing twin that has committed by now
                rows = await _run(connection, statements.BY_REQUEST_ID, parameters)
        return Created(_job(rows[0]), bytes(rows[0]["request_hash"]))

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

    async def dispatch(self, slots: int, limit: int) -> Sequence[Delivery]:
        """Take up to `slots` queued jobs, best first, never more than `limit` running or delivered at once."""
        async with self._database.driver() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _DISPATCH_LOCK})
            rows = await _run(connection, statements.DISPATCH, {"slots": slots, "limit": limit})
        ordered = sorted(rows, key=lambda row: (-row["priority"], row["create_time"]))
        return [Delivery(JobKey(row["tenant_id"], row["backtest_id"]), row["deadline_s"]) for row in ordered]

    async def renew(self, held: Mapping[JobKey, int]) -> set[JobKey]:
        """Renew the leases held under these fences; return the jobs whose cancel was asked for."""
        parameters = {
            "tenants": [key.tenant for key in held],
            "ids": [key.backtest_id for key in held],
            "fences": list(held.values()),
        }
        async with self._database.single() as connection:
            rows = await _run(connection, statements.RENEW, parameters)
        return {JobKey(row["tenant_id"], row["backtest_id"]) for row in rows if row["cancel_requested"]}

    async def rescue(self) -> Sequence[Rescued]:
        """Requeue the jobs whose lease ran out, or fail those out of attempts."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.RESCUE, {})
        return [Rescued(JobKey(row["tenant_id"], row["backtest_id"]), State(row["state"])) for row in rows]

    async def release(self, key: JobKey, fence: int, failure: Failure | None) -> Rescued | None:
        """Give back a job whose worker died; with a failure, end it FAILED. None when the fence is stale."""
        parameters: dict[str, object] = {**_key(key), "fence": fence}
        statement = statements.RELEASE
        if failure is not None:
            statement = statements.FAIL
            parameters |= {"failure": statements.failure_json(failure), "timings_s": "{}"}
        async with self._database.single() as connection:
            rows = await _run(connection, statement, parameters)
        return Rescued(key, State(rows[0]["state"])) if rows else None

    async def hand_back(self, key: JobKey, fence: int) -> None:
        """Requeue a running job whose worker was stopped on purpose; it counts as no death."""
        async with self._database.single() as connection:
            await _run(connection, statements.HAND_BACK, {**_key(key), "fence": fence})

    async def finish_cancelled(self, key: JobKey, fence: int) -> bool:
        """End a running job whose worker was stopped by a cancel."""
        async with self._database.single() as connection:
            return bool(await _run(connection, statements.FINISH_CANCELLED, {**_key(key), "fence": fence}))

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
