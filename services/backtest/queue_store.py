"""The queue in Postgres: limits are counted and turns are taken there, under locks, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from psycopg.rows import DictRow, dict_row

from services.backtest import queue_statements
from services.backtest.jobs import JobKey
from services.backtest.queueing import Created, Earlier, Follower, NewJob, Refused
from services.backtest.sharing import Limits, Queue, Waiting, choose
from services.backtest.store import job_of, key_parameters, run
from services.runtime.database import Database, DriverConnection

_DISPATCH_LOCK = 0x6B6C696E65
"""Advisory lock under which running backtests are counted: two claimers cannot spend the last slot twice."""
_SUBMIT_LOCK = 0x6B6C
"""The like for what a tenant has queued and spent."""
_EQUAL_LOCK = 0x6B6D
"""The like for whether an equal one waits or runs."""
_QUEUE_RETRY_S = 5.0
_AT_ONCE = 256
"""Backtests delivered by one dispatch at most."""
_LOOK = (queue_statements.BUSY, queue_statements.SLOTS, queue_statements.CLOCKS, queue_statements.QUEUES)


class PostgresQueue:
    """QueueStore on the schema `backtest`."""

    def __init__(self, database: Database, origin: str = "") -> None:
        """Use a database; origin: who says that there is work when a job is stored."""
        self._database = database
        self._origin = origin

    async def create(
        self, job: NewJob, limits: Limits, max_queued: int, looked_at: Sequence[str] = ()
    ) -> Created | Refused | None:
        """Store a job with its first event, or return the one stored under the same request_id."""
        parameters = _parameters(job) | {
            "origin": self._origin,
            "klines": job.klines,
            "reuse_key": job.reuse_key,
            "looked_at": list(looked_at),
            "max_queued": max_queued,
            "own_queued": limits.max_queued,
            "daily_klines": limits.daily_klines,
        }
        locks: list[tuple[int, str]] = []  # counted one after another: two at once would both see the last place
        if limits.max_queued is not None or limits.daily_klines is not None:
            locks.append((_SUBMIT_LOCK, job.key.tenant))
        if job.reuse_key is not None:
            locks.append((_EQUAL_LOCK, job.reuse_key.hex()))
        async with self._database.driver() if locks else self._database.single() as connection:
            rows = await _create(connection, locks, parameters)
            if not rows:  # a request_id that was used before, or by a racing twin that has committed by now
                rows = await run(connection, queue_statements.BY_REQUEST_ID, parameters)
            if rows:
                return _created(rows[0])
            if job.reuse_key is not None and await run(connection, queue_statements.FIND_EQUAL, parameters):
                return None
            [row] = await run(connection, queue_statements.REFUSAL, parameters)
        return _refused(row, job, limits, max_queued)

    async def find_equal(self, tenant: str, reuse_key: bytes, looked_at: Sequence[str]) -> Sequence[Earlier]:
        """Return the latest equal backtests that succeeded, but for those looked at already."""
        parameters = {"tenant": tenant, "reuse_key": reuse_key, "looked_at": list(looked_at)}
        async with self._database.single() as connection:
            rows = await run(connection, queue_statements.FIND_EQUAL, parameters)
        return [Earlier(JobKey(tenant, row["backtest_id"]), row["result_id"], row["reads"]) for row in rows]

    async def forget_equal(self, key: JobKey) -> None:
        """Offer the result of a backtest to equal ones no more: what it read was rewritten for good."""
        async with self._database.single() as connection:
            await run(connection, queue_statements.FORGET_EQUAL, key_parameters(key))

    async def create_reused(self, job: NewJob, result_id: str) -> Created:
        """Store a job that has its result already, or return the one stored under the same request_id."""
        parameters = _parameters(job) | {"result_id": result_id}
        async with self._database.single() as connection:
            rows = await run(connection, queue_statements.CREATE_REUSED, parameters)
            if not rows:
                rows = await run(connection, queue_statements.BY_REQUEST_ID, parameters)
        return _created(rows[0])

    async def followers(self, limit: int) -> Sequence[Follower]:
        """Return jobs whose leader has ended."""
        async with self._database.single() as connection:
            rows = await run(connection, queue_statements.FOLLOWERS, {"limit": limit})
        return [_follower(row) for row in rows]

    async def are_followers(self) -> bool:
        """Tell whether any job waits for a leader."""
        async with self._database.single() as connection:
            [row] = await run(connection, queue_statements.ARE_FOLLOWERS, {})
        return bool(row["waiting"])

    async def finish_reused(self, key: JobKey, result_id: str) -> bool:
        """End a waiting follower with its leader's result; False when it does not wait any more."""
        parameters = {**key_parameters(key), "result_id": result_id}
        async with self._database.single() as connection:
            return bool(await run(connection, queue_statements.FINISH_REUSED, parameters))

    async def lead(self, key: JobKey, leader_id: str) -> None:
        """Let a follower compute, and those that wait for the same leader wait for it instead."""
        async with self._database.single() as connection:
            await run(connection, queue_statements.LEAD, {**key_parameters(key), "leader_id": leader_id})

    async def find_request(self, tenant: str, request_id: str) -> Created | None:
        """Return the job stored under a request_id."""
        async with self._database.single() as connection:
            rows = await run(connection, queue_statements.BY_REQUEST_ID, {"tenant": tenant, "request_id": request_id})
        return _created(rows[0]) if rows else None

    async def dispatch(self, slots: int | None, limit: int, limits_of: Callable[[str], Limits]) -> Sequence[str]:
        """Mark queued jobs as delivered and return their ids, best first."""
        async with self._database.driver() as connection:
            most = min(limit, _AT_ONCE) if slots is None else min(slots, limit, _AT_ONCE)
            async with connection.pipeline():  # one round trip; each statement sees what was committed before the lock
                await connection.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _DISPATCH_LOCK})
                await connection.execute(queue_statements.EXPIRE_DELIVERIES)
                cursors = [
                    await connection.cursor(row_factory=dict_row).execute(statement, {"slots": most})
                    for statement in _LOOK
                ]
                busy_rows, [pools], clock_rows, queue_rows = [await cursor.fetchall() for cursor in cursors]
            busy = {row["tenant_id"]: row["n"] for row in busy_rows}
            room = limit if slots is not None else min(limit, pools["slots"])
            free = min(most, room - sum(busy.values()))
            queues = [_queue(row) for row in queue_rows if row["ids"]]
            if free <= 0 or not queues:
                return ()
            clocks = {row["priority"]: row["clock"] for row in clock_rows}
            chosen = choose(queues, free, clocks=clocks, busy=busy, limits_of=limits_of)
            return await _deliver(connection, [one.backtest_id for one in chosen], [one for one in queues if one.taken])


def _queue(row: DictRow) -> Queue:
    return Queue(
        tenant=row["tenant_id"],
        priority=row["priority"],
        heads=[Waiting(*one) for one in zip(row["ids"], row["klines"], strict=True)],
        passed_over_s=row["passed_over_s"],
        started=row["started"],
        finished=row["finished"],
    )


async def _deliver(connection: DriverConnection, ids: Sequence[str], moved: Sequence[Queue]) -> Sequence[str]:
    """Mark jobs as delivered; return the ids of those that still waited, in their order."""
    parameters = {
        "ids": ids,
        "tenants": [one.tenant for one in moved],
        "priorities": [one.priority for one in moved],
        "started": [one.started for one in moved],
        "finished": [one.finished for one in moved],
    }
    async with connection.pipeline():
        cursor = await connection.cursor(row_factory=dict_row).execute(queue_statements.DELIVER, parameters)
        await connection.commit()
        delivered = {row["backtest_id"] for row in await cursor.fetchall()}
    return [one for one in ids if one in delivered]


async def _create(
    connection: DriverConnection, locks: Sequence[tuple[int, str]], parameters: Mapping[str, object]
) -> Sequence[DictRow]:
    """Store a job where it may be, under locks; one round trip, so that they are held for as short as can be."""
    if not locks:
        return await run(connection, queue_statements.CREATE, parameters)
    async with connection.pipeline():
        for kind, subject in locks:
            await connection.execute(queue_statements.LOCK, {"kind": kind, "subject": subject})
        cursor = await connection.cursor(row_factory=dict_row).execute(queue_statements.CREATE, parameters)
        return await cursor.fetchall()


def _refused(row: DictRow, job: NewJob, limits: Limits, max_queued: int) -> Refused:
    if limits.max_queued is not None and row["own"] >= limits.max_queued:
        return Refused(job.key.tenant, f"at most {limits.max_queued:,} backtests wait at once", _QUEUE_RETRY_S)
    if limits.daily_klines is not None and row["spent"] + job.klines > limits.daily_klines:
        spent = f"{row['spent']:,} are spent, this backtest may read {job.klines:,}"
        text = f"at most {limits.daily_klines:,} klines a day: {spent}"
        return Refused(job.key.tenant, text, row["left_of_day_s"])
    return Refused("service", f"at most {max_queued:,} backtests wait at once", _QUEUE_RETRY_S)


def _created(row: DictRow) -> Created:
    return Created(job_of(row), bytes(row["request_hash"]), row["follows"])


def _parameters(job: NewJob) -> dict[str, object]:
    return {
        **key_parameters(job.key),
        "request_id": job.request_id,
        "request_hash": job.request_hash,
        "config": job.config,
        "strategy": job.strategy,
        "priority": job.priority,
        "deadline_s": job.deadline_s,
        "traceparent": job.traceparent,
    }


def _follower(row: DictRow) -> Follower:
    job = job_of(row)
    leader = None
    if row["is_takeable"]:
        leader = Earlier(JobKey(job.key.tenant, row["leader_id"]), row["leader_result_id"], row["reads"])
    return Follower(job, row["leader_id"], leader)
