"""Many watch one backtest: it is read once, all are told in time, and the slow are spared old news."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import grpc.aio
import psycopg
from pydantic import SecretStr

from klinecast.api.backtest.v1 import backtest_pb2, backtest_service_pb2, backtest_service_pb2_grpc
from services.backtest import statements
from services.backtest.jobs import JobKey
from services.backtest.sharing import Limits
from services.backtest.watching import POLL_S, WatchHub
from services.runtime.config import DatabaseSettings
from services.runtime.database import Database, libpq_url
from tests.factories import make_config
from tests.integration.backtest.test_backtest_queue import Stores, new_job
from tests.suite import Suite, run_suite

WATCHERS, CHANNELS = 1_000, 10


async def watch_all(target: str, backtest_id: str, all_joined: asyncio.Event) -> list[tuple[float, list[int]]]:
    """Watch a thousand times; return when each heard of the end, and the numbers it heard."""
    joined = 0

    async def watch(channel: grpc.aio.Channel) -> tuple[float, list[int]]:
        nonlocal joined
        stub, sequences = backtest_service_pb2_grpc.BacktestServiceStub(channel), []
        request = backtest_service_pb2.WatchBacktestRequest(backtest_id=backtest_id)
        async for response in stub.WatchBacktest(request):
            if not sequences:
                joined += 1
                if joined == WATCHERS:
                    all_joined.set()
            if not response.event.heartbeat:
                sequences.append(response.event.sequence)
        assert response.event.state == backtest_pb2.BACKTEST_STATE_CANCELLED
        return time.time() - response.event.event_time.ToMilliseconds() / 1000, sequences

    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(CHANNELS)]
    try:
        return await asyncio.gather(*(watch(channels[n % CHANNELS]) for n in range(WATCHERS)))
    finally:
        for channel in channels:
            await channel.close()


async def test_a_thousand_watchers_hear_of_the_end_within_two_seconds(own_suite: Suite, database_url: str) -> None:
    service = own_suite.process("backtest")
    with own_suite.client() as client, psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        config = make_config(client, strategy="slow", params={"seconds": 60.0})
        backtest_id = client.create_backtest(config).backtest_id
        before, reads, begun = service.memory_info().rss, count_reads(connection), time.monotonic()
        all_joined = asyncio.Event()
        watching = asyncio.create_task(watch_all(own_suite.target("backtest"), backtest_id, all_joined))
        await asyncio.wait_for(all_joined.wait(), 60)
        grown = service.memory_info().rss - before
        client.cancel_backtest(backtest_id)
        heard = await asyncio.wait_for(watching, 30)
        last = client.get_backtest(backtest_id).last_sequence
        reads, took_s = count_reads(connection) - reads, time.monotonic() - begun
    slowest = max(delay for delay, _ in heard)
    print(f"\n{reads} reads of {last} events in {took_s:.1f} s")
    print(f"{WATCHERS} watchers: the last heard of it after {slowest:.2f} s, {grown / WATCHERS / 1024:.1f} KiB each")
    assert slowest < 2
    assert all(sequences == list(range(1, last + 1)) for _, sequences in heard)
    assert reads <= 4 * last + took_s / POLL_S + 2, reads  # two signs of an event, a page and its end each; the poll
    assert grown / WATCHERS < 100 * 1024


async def test_a_quiet_backtest_s_watchers_hear_heartbeats(session_home: Path, database_url: str) -> None:
    home = session_home / f"suite-{uuid.uuid4().hex[:8]}"
    with run_suite(home, database_url, WORKERS="0", WATCH_HEARTBEAT_S="0.1") as suite:
        with suite.client() as client:
            backtest_id = client.create_backtest(make_config(client)).backtest_id
        async with grpc.aio.insecure_channel(suite.target("backtest")) as channel:
            stub = backtest_service_pb2_grpc.BacktestServiceStub(channel)
            watch = stub.WatchBacktest(backtest_service_pb2.WatchBacktestRequest(backtest_id=backtest_id))
            heard = [(await watch.read()).event for _ in range(4)]
    assert [(event.heartbeat, event.sequence) for event in heard] == [(False, 1), (True, 1), (True, 1), (True, 1)]


def count_reads(connection: psycopg.Connection) -> int:
    """Return how often events were looked up, once Postgres has said so."""
    time.sleep(1.1)  # statistics are sent once a second
    query = "SELECT idx_scan FROM pg_stat_user_tables WHERE schemaname = 'backtest' AND relname = 'events'"
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0] or 0)


async def test_a_slow_watcher_misses_old_progress_and_no_state(database_url: str) -> None:
    database = Database(DatabaseSettings(url=SecretStr(database_url)), application_name="test")
    store, sql = Stores(database), psycopg.connect(libpq_url(database_url), autocommit=True)
    try:
        key = (await store.create(new_job(), Limits(), 10)).job.key  # type: ignore[union-attr]
        hub = WatchHub(store)
        slow = hub.watch(key, 0, story=1, quiet_s=5)
        assert [event.sequence for event in await anext(slow)] == [1]
        fence = run_until_done(sql, store, key, await store.dispatch(1, 9, lambda tenant: Limits()))
        hub.wake(key.backtest_id)
        heard = [event async for events in slow for event in events]
        whole = [event async for events in hub.watch(key, 0, story=fence, quiet_s=5) for event in events]
        await hub.close()
    finally:
        sql.close()
        await database.close()
    assert [event.sequence for event in whole] == list(range(1, 404))
    assert [event.state for event in heard if "phase" not in event.body] == ["RUNNING", "SUCCEEDED"]
    assert len(heard) < 20


def run_until_done(sql: psycopg.Connection, store: Stores, key: JobKey, delivered: object) -> int:
    """Claim a backtest, write four hundred progress events and its end; return its last number."""
    parameters = {"tenant": key.tenant, "backtest_id": key.backtest_id, "fence": 1, "worker_id": str(uuid.uuid4())}
    sql.execute(statements.CLAIM, parameters)
    for done in range(400):
        progress = f'{{"phase": "SIMULATE", "klines_done": {done}}}'
        sql.execute(statements.PROGRESS, parameters | {"progress": progress})
    end = {"progress": "{}", "timings_s": "{}", "result_id": key.backtest_id}
    end |= dict.fromkeys(("reuse_key", "continue_key", "reads", "continuation"))
    sql.execute(statements.SUCCEED, parameters | end)
    return 403


def test_watchers_that_leave_are_forgotten(own_suite: Suite) -> None:
    with own_suite.client() as client:
        backtest_id = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 60.0})).backtest_id
        for _ in range(20):
            watch = client.watch_backtest(backtest_id)
            next(watch)
            watch.close()
        client.cancel_backtest(backtest_id)
        assert list(client.watch_backtest(backtest_id))[-1].state == "CANCELLED"
    assert "unexpected_error" not in own_suite.log("backtest")
