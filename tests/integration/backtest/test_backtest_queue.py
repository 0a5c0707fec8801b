"""The queue in Postgres: order, limits and quotas are counted there, whoever asks, however many at once."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from pydantic import SecretStr

from klinecast.interval import Interval
from klinecast.models import RangeSummary
from services.backtest import queue_statements, statements
from services.backtest.jobs import MAX_ATTEMPTS, JobKey, State
from services.backtest.queue_store import _DISPATCH_LOCK, PostgresQueue
from services.backtest.queueing import Created, NewJob, Refused
from services.backtest.ranges import Range, Ranges
from services.backtest.reuse import Read
from services.backtest.reusing import Reuser
from services.backtest.sharing import Limits
from services.backtest.store import PostgresJobStore
from services.runtime.config import DatabaseSettings
from services.runtime.database import Database, libpq_url
from services.runtime.errors import is_database_away
from tests.factories import HOUR_MS, make_series

FREE = Limits()


class Stores(PostgresQueue, PostgresJobStore):
    """Both of a service's."""


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Stores]:
    database = Database(DatabaseSettings(url=SecretStr(url), pool_size=16), application_name="test")
    try:
        yield Stores(database)
    finally:
        await database.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Stores]:
    async with open_store(database_url) as store:
        yield store


@pytest.fixture
def sql(database_url: str):
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection.execute


def new_job(tenant: str = "a", *, priority: int = 4, klines: int = 1, request_id: str | None = None) -> NewJob:
    key = JobKey(tenant, str(uuid.uuid4()))
    return NewJob(key, b"", request_id, b"", "dual_ma", priority, 3600.0, "", klines)


async def create(store: Stores, *jobs: NewJob) -> list[str]:
    return [(await store.create(job, FREE, 10**9)).job.key.backtest_id for job in jobs]  # type: ignore[union-attr]


def flood(sql, tenant: str, count: int, priority: int = 4) -> None:
    """Queue many at once; one statement each would take minutes."""
    sql(
        """INSERT INTO backtest.backtests (tenant_id, backtest_id, request_hash, config, strategy, priority, deadline_s,
             traceparent, state, create_time, last_sequence)
           SELECT %s, gen_random_uuid(), '', '', 'dual_ma', %s, 3600, '', 'QUEUED', clock_timestamp(), 1
           FROM generate_series(1, %s)""",
        (tenant, priority, count),
    )


def claim(sql, backtest_id: str) -> bool:
    return sql(statements.CLAIM, {"backtest_id": backtest_id, "worker_id": str(uuid.uuid4())}).fetchone() is not None


async def dispatch(store: Stores, slots: int, limit: int = 100, limits: Limits = FREE) -> list[str]:
    return list(await store.dispatch(slots, limit, lambda tenant: limits))


async def test_the_ten_of_high_priority_are_next(store, sql) -> None:
    flood(sql, "a", 10_000, priority=1)
    high = await create(store, *(new_job(priority=8) for _ in range(10)))
    assert sorted(await dispatch(store, 10)) == sorted(high)


async def test_a_tenant_behind_a_flood_is_next_but_one(store, sql) -> None:
    flood(sql, "a", 10_000)
    for _ in range(5):
        await dispatch(store, 1)
    [one] = await create(store, new_job("b"))
    assert one in [*await dispatch(store, 1), *await dispatch(store, 1)]


async def test_of_one_queue_the_oldest_is_next(store) -> None:
    ids = await create(store, *(new_job() for _ in range(5)))
    assert await dispatch(store, 3) == ids[:3]


async def test_limits_hold_under_many_dispatchers(store, sql, database_url) -> None:
    for tenant in "abcd":
        flood(sql, tenant, 50)
    async with open_store(database_url) as other:
        found = await asyncio.gather(
            *(dispatch(one, 3, limit=7, limits=Limits(max_running=2)) for one in (store, other) for _ in range(10))
        )
    ids = [backtest_id for batch in found for backtest_id in batch]
    assert len(ids) == len(set(ids)) == 7
    counted = sql(
        "SELECT count(*) FROM backtest.backtests WHERE delivered_until IS NOT NULL GROUP BY tenant_id"
    ).fetchall()
    assert sorted(counted) == [(1,), (2,), (2,), (2,)]


async def test_a_dispatcher_that_freezes_with_the_lock_holds_the_others_up_for_seconds(store, database_url) -> None:
    [one] = await create(store, new_job())
    database = Database(DatabaseSettings(url=SecretStr(database_url)), application_name="frozen")

    async def freeze() -> None:
        async with asyncio.timeout(15), database.driver() as frozen:
            await frozen.execute("SELECT pg_advisory_xact_lock(%s)", (_DISPATCH_LOCK,))
            assert await dispatch(store, 1) == [one]

    with pytest.raises(psycopg.Error) as given_up:
        await freeze()
    await database.close()
    assert is_database_away(given_up.value)


async def test_a_delivery_that_lapsed_can_be_claimed_only_until_it_is_taken_back(store, sql) -> None:
    [one] = await create(store, new_job())
    assert await dispatch(store, 1) == [one]
    sql("UPDATE backtest.backtests SET delivered_until = clock_timestamp() - interval '1 s'")
    assert await dispatch(store, 1) == [one]  # counted anew, delivered anew
    assert claim(sql, one)
    assert not claim(sql, one)
    assert await dispatch(store, 1) == []


async def test_what_was_not_delivered_cannot_be_claimed(store, sql) -> None:
    [one] = await create(store, new_job())
    assert not claim(sql, one)


async def test_a_cancelled_delivery_frees_its_slot(store, sql) -> None:
    one, two = await create(store, new_job(), new_job())
    assert await dispatch(store, 1, limit=1) == [one]
    assert await dispatch(store, 1, limit=1) == []
    await store.cancel(JobKey("a", one))
    assert not claim(sql, one)
    assert await dispatch(store, 1, limit=1) == [two]


async def test_announced_pools_bound_what_is_published(store, sql) -> None:
    flood(sql, "a", 10)
    assert await store.dispatch(None, 100, lambda tenant: FREE) == ()
    announce = {"pool_id": str(uuid.uuid4()), "slots": 3}
    sql(queue_statements.ANNOUNCE, announce)
    assert len(await store.dispatch(None, 100, lambda tenant: FREE)) == 3
    assert await store.dispatch(None, 100, lambda tenant: FREE) == ()
    sql(queue_statements.ANNOUNCE, announce | {"slots": 4})
    assert len(await store.dispatch(None, 100, lambda tenant: FREE)) == 1


async def test_a_quota_admits_exactly_so_many_of_a_crowd(store) -> None:
    limits = Limits(max_queued=100)
    made = await asyncio.gather(*(store.create(new_job(), limits, 10**9) for _ in range(300)))
    assert sum(isinstance(one, Created) for one in made) == 100
    refused = next(one for one in made if isinstance(one, Refused))
    assert (refused.subject, refused.retry_after_s) == ("a", 5.0)
    assert isinstance(await store.create(new_job("b"), limits, 10**9), Created)


async def test_klines_of_a_day_are_spent_once(store, sql) -> None:
    limits = Limits(daily_klines=1_000)
    made = await asyncio.gather(
        *(store.create(new_job(klines=90, request_id=f"r{n // 2}"), limits, 10**9) for n in range(40))
    )
    assert len({one.job.key.backtest_id for one in made if isinstance(one, Created)}) == 11  # 990 of 1,000
    assert sql("SELECT klines FROM backtest.usage").fetchone() == (990,)
    refused = next(one for one in made if isinstance(one, Refused))
    assert 0 < refused.retry_after_s <= 86_400


async def test_the_whole_queue_is_bounded(store, sql) -> None:
    flood(sql, "a", 5)
    refused = await store.create(new_job("b"), FREE, 5)
    assert isinstance(refused, Refused)
    assert refused.subject == "service"


EQUAL = """
INSERT INTO backtest.backtests (tenant_id, backtest_id, request_hash, config, strategy, priority, deadline_s,
                                traceparent, state, create_time, end_time, last_sequence, reuse_key, reads, result_id)
SELECT 'a', one, '', '', 'dual_ma', 4, 3600, '', 'SUCCEEDED', now(), now(), 1, 'k', %s, one
FROM (SELECT gen_random_uuid() AS one FROM generate_series(1, %s)) AS many
"""


async def test_a_result_whose_klines_were_rewritten_is_looked_at_once(store, sql) -> None:
    read = Read(make_series(), 0, HOUR_MS, Interval.H1, revision=1, kline_count=1)
    sql(EQUAL, (json.dumps([read.to_json()]), 20))
    asked: list[Range] = []

    async def get_range(tenant: str, wanted: Range) -> RangeSummary:
        asked.append(wanted)
        return RangeSummary(1, 2, rewrite_revision=2, source_interval=Interval.H1, indicators={})

    reuser = Reuser(queue=store, get_range=get_range, keep_result=lambda *_: None, settled=lambda _: None)
    for _ in range(10):
        assert await reuser.find(Ranges(get_range, "a"), b"k", None, []) is None
    assert len(asked) == 7  # three results a request, which asks about a range once


async def test_a_long_queue_is_not_read_to_find_the_next(store, sql) -> None:
    for tenant in "abcdefghij":
        flood(sql, tenant, 10_000)
    sql("VACUUM ANALYZE backtest.backtests")
    plan = "\n".join(
        row[0] for row in sql("EXPLAIN (ANALYZE, BUFFERS OFF) " + queue_statements.QUEUES, {"slots": 4}).fetchall()
    )
    assert "Seq Scan on backtests" not in plan
    assert (
        max(int(line.split("rows=")[-1].split(".")[0].split(" ")[0]) for line in plan.splitlines() if "rows=" in line)
        <= 100
    )
    started = time.perf_counter()
    assert len(await dispatch(store, 4)) == 4
    print(f"dispatch out of 100,000: {1000 * (time.perf_counter() - started):.1f} ms")


async def test_attempts_are_told_when_they_are_used_up(store, sql) -> None:
    [one] = await create(store, new_job())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        worker = str(uuid.uuid4())
        assert await dispatch(store, 1) == [one]
        assert sql(statements.CLAIM, {"backtest_id": one, "worker_id": worker}).fetchone()
        sql(statements.RELEASE, {"backtest_id": one, "worker_id": worker, "how": f"it fell over {attempt}"})
    job = await store.get(JobKey("a", one))
    assert job is not None
    assert job.failure is not None
    assert (job.state, job.failure.reason) == (State.FAILED, "ATTEMPTS_EXHAUSTED")
    lines = job.failure.detail.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"attempt {n}" for n in range(1, MAX_ATTEMPTS + 1)]
    assert all(f"it fell over {n}" in line for n, line in enumerate(lines, 1))
