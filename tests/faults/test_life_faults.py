"""Single faults in the life of a backtest, named after their rows in the catalogue of faults (A)."""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from klinecast.client import BacktestEvent, Client
from klinecast.errors import NotFound
from services.backtest import statements
from services.backtest.jobs import LEASE_S, MAX_ATTEMPTS, Failure
from services.backtest.worker.store import Claim, Origin, WorkerStore
from services.runtime.database import libpq_url
from tests.factories import make_config
from tests.suite import Suite, run_suite

ROUNDS = 1_000


@pytest.fixture
def client(own_suite: Suite) -> Iterator[Client]:
    with own_suite.client() as client:
        yield client


@pytest.fixture
def shared(suite: Suite) -> Iterator[Client]:
    """Return a client of the session's deployment, for what kills nothing but its own worker."""
    with suite.client() as client:
        yield client


@pytest.fixture
def sql(database_url: str):
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection.execute


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end_of(client: Client, backtest_id: str) -> BacktestEvent:
    return list(client.watch_backtest(backtest_id))[-1]


def workers_of(suite: Suite) -> list[psutil.Process]:
    return suite.process("backtest").children()


def busy_worker(sql, backtest_id: str, suite: Suite) -> psutil.Process:
    """Return the process that runs a backtest; its random identity stands in its command line and in the row."""
    [worker_id] = sql(
        "SELECT worker_id::text FROM backtest.backtests WHERE backtest_id = %s", (backtest_id,)
    ).fetchone()
    return next(one for one in workers_of(suite) if worker_id in one.cmdline())


def start_slow(client: Client, seconds: float = 2.0) -> str:
    backtest_id = client.create_backtest(make_config(client, strategy="slow", params={"seconds": seconds})).backtest_id
    next(event for event in client.watch_backtest(backtest_id) if event.state == "RUNNING")
    return backtest_id


def test_a1_a_killed_worker_s_backtest_runs_again_within_five_seconds(own_suite: Suite, client: Client, sql) -> None:
    backtest_id = start_slow(client)
    busy_worker(sql, backtest_id, own_suite).send_signal(signal.SIGKILL)
    killed = time.monotonic()
    next(event for event in client.watch_backtest(backtest_id) if event.state == "RUNNING" and event.attempt == 2)
    print(f"\nrunning again after {time.monotonic() - killed:.2f} s")
    assert time.monotonic() - killed < 5
    assert end_of(client, backtest_id).state == "SUCCEEDED"


def test_a6_of_a_hundred_stale_writes_none_is_accepted(
    client: Client, sql, database_url: str, own_suite: Suite
) -> None:
    family = [own_suite.process("backtest"), *workers_of(own_suite)]
    for process in family:
        process.suspend()  # nobody else claims, renews or rescues
    refused, stores = 0, [WorkerStore(database_url, str(uuid.uuid4())) for _ in range(2)]
    stale, fresh = stores
    for _ in range(25):
        backtest_id = put_delivered(sql)
        old = claim(stale, backtest_id)
        sql("UPDATE backtest.backtests SET lease_until = '2020-01-01' WHERE backtest_id = %s", (backtest_id,))
        assert sql(statements.RESCUE, {"how": "paused"}).fetchone()
        sql("UPDATE backtest.backtests SET delivered_until = '2100-01-01' WHERE backtest_id = %s", (backtest_id,))
        new = claim(fresh, backtest_id)
        assert (old.fence, new.fence) == (1, 2)
        refused += stale.progress(old, {"phase": "SIMULATE"}) is None
        refused += not stale.succeed(old, {}, {}, Origin())
        refused += not stale.fail(old, Failure("STRATEGY_FAILED", "stale"), {})
        refused += not stale.cancelled(old)
        assert fresh.succeed(new, {}, {}, Origin())
    for store in stores:
        store.close()
    for process in family:
        process.resume()
    assert refused == 100


def put_delivered(sql) -> str:
    backtest_id = str(uuid.uuid4())
    sql(
        """INSERT INTO backtest.backtests (tenant_id, backtest_id, request_hash, config, strategy, priority, deadline_s,
             traceparent, state, delivered_until, create_time, last_sequence)
           VALUES ('a', %s, '', '', 'dual_ma', 4, 3600, '', 'QUEUED', '2100-01-01', now(), 1)""",
        (backtest_id,),
    )
    return backtest_id


def claim(store: WorkerStore, backtest_id: str) -> Claim:
    found = store.claim(backtest_id)
    assert found is not None
    return found


def test_a6_a_paused_worker_that_wakes_up_changes_nothing(own_celery_suite: Suite, database_url: str) -> None:
    with own_celery_suite.client() as client, psycopg.connect(libpq_url(database_url)) as connection:
        ids = [
            client.create_backtest(make_config(client, strategy="slow", params={"seconds": 1.0})).backtest_id
            for _ in range(2)
        ]
        next(event for event in client.watch_backtest(ids[0]) if event.state == "RUNNING")
        paused = own_celery_suite.workers[0].process
        family = [paused, *paused.children()]
        for process in family:
            process.suspend()
        own_celery_suite.add_worker()
        ends = [end_of(client, one) for one in ids]
        for process in family:
            process.resume()
        time.sleep(LEASE_S)  # what it was about to write is refused by now
        assert [(end.state, client.get_backtest(one).state) for one, end in zip(ids, ends, strict=True)] == [
            ("SUCCEEDED", "SUCCEEDED")
        ] * 2
        assert max(end.attempt for end in ends) >= 2
        assert connection.execute("SELECT count(*) FROM results.results").fetchone() == (2,)


def test_a11_a_backtest_that_kills_its_workers_ends_and_the_queue_moves_on(shared: Client) -> None:
    deadly = shared.create_backtest(make_config(shared, strategy="crash", params={"how": "kill"}))
    others = [shared.create_backtest(make_config(shared)).backtest_id for _ in range(5)]
    assert [end_of(shared, one).state for one in others] == ["SUCCEEDED"] * 5
    end = end_of(shared, deadly.backtest_id)
    assert (end.state, end.attempt, end.error.reason) == ("FAILED", MAX_ATTEMPTS, "ATTEMPTS_EXHAUSTED")
    assert end.error.detail.count("exit code -9") == MAX_ATTEMPTS


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds nothing elsewhere")
def test_a12_a_backtest_beyond_the_memory_of_a_worker_fails_alone(session_home: Path, database_url: str) -> None:
    home = session_home / f"suite-{uuid.uuid4().hex[:8]}"
    with run_suite(home, database_url, WORKERS="1", WORKER_MEMORY_MB="768") as suite, suite.client() as client:
        before = {suite.process("backtest").pid, *(one.pid for one in workers_of(suite))}
        hog = client.create_backtest(make_config(client, strategy="hog", params={"mb": 2_000})).backtest_id
        end = end_of(client, hog)
        assert (end.state, end.attempt, end.error.reason) == ("FAILED", 1, "RESOURCE")
        assert end_of(client, client.create_backtest(make_config(client)).backtest_id).state == "SUCCEEDED"
        assert {suite.process("backtest").pid, *(one.pid for one in workers_of(suite))} == before


@pytest.mark.timeout(300)
def test_a15_a_cancel_that_races_the_end_has_one_winner(suite: Suite, seed: int) -> None:
    choices = random.Random(seed)
    pauses = [choices.uniform(0.0, 0.15) for _ in range(ROUNDS)]
    with suite.client() as client:
        config = make_config(client, klines=200)

        def race(pause_s: float) -> str:
            backtest_id = client.create_backtest(config).backtest_id
            time.sleep(pause_s)
            client.cancel_backtest(backtest_id)
            end = end_of(client, backtest_id)
            assert client.get_backtest(backtest_id).state == end.state == client.cancel_backtest(backtest_id).state
            if end.state == "SUCCEEDED":
                client.get_result(backtest_id)
            return end.state

        with ThreadPoolExecutor(8) as pool:
            states = list(pool.map(race, pauses))
    print(f"\n{ROUNDS} races: {states.count('CANCELLED')} cancelled, {states.count('SUCCEEDED')} finished")
    assert set(states) == {"CANCELLED", "SUCCEEDED"}


def test_a15_what_was_cancelled_has_no_result(shared: Client) -> None:
    backtest_id = start_slow(shared)
    shared.cancel_backtest(backtest_id)
    assert end_of(shared, backtest_id).state == "CANCELLED"
    with pytest.raises(NotFound):
        shared.get_result(backtest_id)


def test_a16_a_hundred_clients_with_one_request_id_make_one_backtest(suite: Suite) -> None:
    with suite.client() as maker:
        config = make_config(maker)
    request_id = f"once-{uuid.uuid4()}"

    def create(_: int) -> str:
        with suite.client() as client:
            return client.create_backtest(config, request_id=request_id).backtest_id

    with ThreadPoolExecutor(100) as pool:
        assert len(set(pool.map(create, range(100)))) == 1


HOLD_BACK = """
CREATE FUNCTION backtest.hold_back() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;
CREATE TRIGGER hold_back BEFORE INSERT ON backtest.events FOR EACH ROW WHEN (NEW.state = 'SUCCEEDED')
  EXECUTE FUNCTION backtest.hold_back()
"""


@contextmanager
def saved_and_not_ended(client: Client, sql, database_url: str) -> Iterator[tuple[str, int]]:
    """Yield a backtest whose result is saved and whose end waits for us, and the database process that waits."""
    waiting = """SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
                 AND application_name = 'klinecast-worker'"""
    sql(HOLD_BACK)
    with psycopg.connect(libpq_url(database_url)) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(4711)")
        backtest_id = start_slow(client, 0.5)
        wait_for(lambda: sql(waiting).fetchone() is not None)
        assert sql("SELECT count(*) FROM results.results").fetchone() == (1,)
        yield backtest_id, sql(waiting).fetchone()[0]
        holder.rollback()


def test_a_crash_between_the_result_and_the_end(own_suite: Suite, client: Client, sql, database_url: str) -> None:
    with saved_and_not_ended(client, sql, database_url) as (backtest_id, pid):
        busy_worker(sql, backtest_id, own_suite).send_signal(signal.SIGKILL)
        sql("SELECT pg_terminate_backend(%s)", (pid,))
    end = end_of(client, backtest_id)
    assert (end.state, end.attempt) == ("SUCCEEDED", 2)
    assert sql("SELECT count(*) FROM results.results").fetchone() == (1,)
    assert client.get_result(backtest_id).klines == 500


def test_a_cancel_between_the_result_and_the_end(own_suite: Suite, client: Client, sql, database_url: str) -> None:
    service = own_suite.process("backtest")
    with saved_and_not_ended(client, sql, database_url) as (backtest_id, pid):
        service.suspend()  # it is not to give the backtest back before the cancel
        busy_worker(sql, backtest_id, own_suite).send_signal(signal.SIGKILL)
        sql("SELECT pg_terminate_backend(%s)", (pid,))
        wait_for(lambda: sql(statements.ASK_CANCEL, {"tenant": "default", "backtest_id": backtest_id}).fetchone())
    service.resume()
    assert end_of(client, backtest_id).state == "CANCELLED"
    wait_for(lambda: sql("SELECT count(*) FROM results.results").fetchone() == (0,))
    with pytest.raises(NotFound):
        client.get_result(backtest_id)


def test_no_lease_lapses_while_every_core_is_busy(shared: Client) -> None:
    context = multiprocessing.get_context("spawn")
    burners = [context.Process(target=burn, args=(8.0,), daemon=True) for _ in range(4)]
    ids = [start_slow(shared, 6.0) for _ in range(2)]
    for burner in burners:
        burner.start()
    ends = [end_of(shared, one) for one in ids]
    for burner in burners:
        burner.join(20)
    assert [(end.state, end.attempt) for end in ends] == [("SUCCEEDED", 1)] * 2


def burn(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


def test_a23_backtests_start_without_notifications(own_suite: Suite, client: Client, sql) -> None:
    """A row that nobody announced is found by the poll."""
    config = make_config(client)
    first = client.create_backtest(config).backtest_id
    end_of(client, first)
    copy = str(uuid.uuid4())
    sql(
        """INSERT INTO backtest.backtests (tenant_id, backtest_id, request_hash, config, strategy, priority, deadline_s,
             traceparent, state, create_time, last_sequence)
           SELECT tenant_id, %s, request_hash, config, strategy, priority, deadline_s, traceparent, 'QUEUED', now(), 0
           FROM backtest.backtests WHERE backtest_id = %s""",
        (copy, first),
    )
    started = time.monotonic()
    wait_for(lambda: client.get_backtest(copy).state == "SUCCEEDED", 10)
    assert time.monotonic() - started < 4


def flood(sql, backtest_id: str, count: int, priority: int, tenant: str = "default") -> None:
    """Queue copies of a backtest that ended."""
    sql(
        """INSERT INTO backtest.backtests (tenant_id, backtest_id, request_hash, config, strategy, priority, deadline_s,
             traceparent, state, create_time, last_sequence)
           SELECT %s, gen_random_uuid(), '', config, strategy, %s, deadline_s, '', 'QUEUED', clock_timestamp(), 0
           FROM backtest.backtests, generate_series(1, %s) WHERE backtest_id = %s""",
        (tenant, priority, count, backtest_id),
    )


def started_before(sql, backtest_ids: list[str]) -> int:
    """Return how many others started between the creation of the first of some backtests and the start of the last."""
    query = """
        WITH ours AS (SELECT min(create_time) AS since, max(first_start_time) AS until FROM backtest.backtests
                      WHERE backtest_id = ANY (%(ids)s::uuid[]))
        SELECT count(*) FROM backtest.backtests, ours
        WHERE first_start_time BETWEEN since AND until AND NOT backtest_id = ANY (%(ids)s::uuid[])"""
    return int(sql(query, {"ids": backtest_ids}).fetchone()[0])


def test_a21_ten_of_high_priority_start_next(client: Client, sql) -> None:
    config = make_config(client, strategy="slow", params={"seconds": 0.1}, klines=100)
    first = client.create_backtest(config).backtest_id
    end_of(client, first)
    flood(sql, first, 10_000, priority=1)
    wait_for(lambda: sql("SELECT count(*) FROM backtest.backtests WHERE state = 'SUCCEEDED'").fetchone()[0] > 5)
    high = [client.create_backtest(dataclasses.replace(config, priority=8)).backtest_id for _ in range(10)]
    for backtest_id in high:
        assert end_of(client, backtest_id).state == "SUCCEEDED"
    others = started_before(sql, high)
    print(f"\n{others} of 10,000 of low priority started between the first request and the last start of ten")
    assert others <= 12  # two workers go on while the ten are being asked for, one backtest at a time


def test_a22_a_flood_of_one_tenant_holds_another_up_for_two_backtests(own_suite: Suite, client: Client, sql) -> None:
    config = make_config(client, strategy="slow", params={"seconds": 0.3}, klines=100)
    first = client.create_backtest(config).backtest_id
    end_of(client, first)
    flood(sql, first, 10_000, priority=4)
    wait_for(lambda: sql("SELECT count(*) FROM backtest.backtests WHERE state = 'SUCCEEDED'").fetchone()[0] > 5)
    with own_suite.client(tenant="another") as another:
        backtest_id = another.create_backtest(config).backtest_id
        assert end_of(another, backtest_id).state == "SUCCEEDED"
    others = started_before(sql, [backtest_id])
    print(f"\n{others} of the flood started before it")
    assert others <= 4  # two lengths of two workers
