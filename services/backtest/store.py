"""Backtests in Postgres: runs the statements of the life of a backtest and turns rows into domain objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from psycopg.rows import DictRow, dict_row

from services.backtest import statements
from services.backtest.expiry import Held
from services.backtest.jobs import (
    Backlog,
    Event,
    Failure,
    Job,
    JobFilter,
    JobKey,
    Rescued,
    State,
)
from services.backtest.strategies.lookahead import Finding
from services.runtime.database import Database, DriverConnection


class PostgresJobStore:
    """JobStore on the schema `backtest`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: JobKey) -> Job | None:
        """Return a job, None when there is none."""
        async with self._database.single() as connection:
            rows = await run(connection, statements.GET, key_parameters(key))
        return job_of(rows[0]) if rows else None

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
            return [job_of(row) for row in await run(connection, statements.LIST, parameters)]

    async def verdicts(self) -> Mapping[tuple[str, str], Finding]:
        """Return what was seen of strategies, by (code hash, name)."""
        async with self._database.single() as connection:
            rows = await run(connection, statements.VERDICTS, {})
        return {(row["code_hash"], row["strategy"]): Finding(row["kline_index"], row["unproven"]) for row in rows}

    async def remember_verdict(self, code_hash: str, name: str, finding: Finding) -> None:
        """Keep what was seen of a strategy."""
        parameters = {"code_hash": code_hash, "strategy": name, **dataclasses.asdict(finding)}
        async with self._database.single() as connection:
            await run(connection, statements.REMEMBER_VERDICT, parameters)

    async def events(self, key: JobKey, after: int, limit: int) -> Sequence[Event]:
        """Return events after a sequence number, in order."""
        async with self._database.single() as connection:
            rows = await run(connection, statements.EVENTS, {**key_parameters(key), "after": after, "limit": limit})
        return [
            Event(row["sequence"], row["event_time"], State(row["state"]), row["attempt"], row["body"]) for row in rows
        ]

    async def cancel(self, key: JobKey) -> Job | None:
        """Cancel a queued job, ask a running one to stop, leave a terminal one; return it as it is then."""
        async with self._database.single() as connection:
            while True:
                if not await run(connection, statements.CANCEL_QUEUED, key_parameters(key)):
                    await run(connection, statements.ASK_CANCEL, key_parameters(key))
                rows = await run(connection, statements.GET, key_parameters(key))
                if not rows:
                    return None
                job = job_of(rows[0])
                if job.state.terminal or job.cancel_requested:
                    return job  # else it changed hands between the statements: ask again

    async def rescue(self) -> Sequence[Rescued]:
        """Requeue the jobs whose lease ran out, or fail those out of attempts."""
        async with self._database.single() as connection:
            rows = await run(connection, statements.RESCUE, {"how": "its lease was not renewed"})
        return [Rescued(JobKey(row["tenant_id"], row["backtest_id"]), State(row["state"])) for row in rows]

    async def backlog(self) -> Backlog:
        """Count jobs that are queued and running."""
        async with self._database.single() as connection:
            [row] = await run(connection, statements.BACKLOG, {})
        return Backlog(**row)

    async def unwanted(self, limit: int) -> Sequence[tuple[JobKey, int]]:
        """Return results to delete, with the fence up to which late saves are refused."""
        async with self._database.single() as connection:
            rows = await run(connection, statements.UNWANTED, {"limit": limit})
        return [(JobKey(row["tenant_id"], row["backtest_id"]), row["fence"]) for row in rows]

    async def forget_unwanted(self, key: JobKey) -> None:
        """Strike a result off the list of those to delete."""
        async with self._database.single() as connection:
            await run(connection, statements.FORGET_UNWANTED, key_parameters(key))

    async def held(self, after: str | None, limit: int) -> Sequence[Held]:
        """Return backtests that point to a result not known to be gone, by id, after one."""
        async with self._database.single() as connection:
            rows = await run(connection, statements.HELD, {"after": after, "limit": limit})
        return [Held(JobKey(row["tenant_id"], row["backtest_id"]), row["result_id"]) for row in rows]

    async def mark_expired(self, keys: Sequence[JobKey]) -> None:
        """Note that the results of backtests are gone; they never come back."""
        tenants, ids = [key.tenant for key in keys], [key.backtest_id for key in keys]
        async with self._database.single() as connection:
            await run(connection, statements.MARK_EXPIRED, {"tenants": tenants, "backtest_ids": ids})

    async def sweep(self, state: State, keep_s: float, limit: int) -> int:
        """Delete jobs that ended in a state longer ago than that, events with them; return how many."""
        parameters = {"state": state.value, "keep_s": keep_s, "limit": limit}
        async with self._database.single() as connection:
            return len(await run(connection, statements.SWEEP, parameters))


def key_parameters(key: JobKey) -> dict[str, object]:
    """Return what names a row."""
    return {"tenant": key.tenant, "backtest_id": key.backtest_id}


async def run(connection: DriverConnection, statement: str, parameters: Mapping[str, object]) -> Sequence[DictRow]:
    """Run a statement and return its rows."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


def job_of(row: DictRow) -> Job:
    """Read the row of a job."""
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
        result_expired=row["result_expired"],
    )
