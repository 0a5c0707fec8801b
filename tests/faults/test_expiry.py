"""F: results go at the very instant they expire, whoever sweeps meanwhile and whatever the application's clocks say."""

from __future__ import annotations

import itertools
import json
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.client import Client
from klinecast.errors import Aborted, NotFound
from services.runtime.database import libpq_url
from tests.faults import expiry
from tests.results import Replica, make_equity, make_header, make_trades, run_replicas, save, wait_until


@pytest.fixture
def home(session_home: Path) -> Path:
    return session_home / f"expiry-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def replicas(home: Path, database_url: str) -> Iterator[list[Replica]]:
    with run_replicas(home, database_url, *expiry.environments()) as replicas:
        yield replicas


def insert_expiring(url: str, count: int, seconds: float) -> None:
    """Insert results with a chunk each that expire so many seconds from now."""
    with psycopg.connect(libpq_url(url)) as connection:
        connection.execute(
            """
            WITH made AS (
              INSERT INTO results.results (tenant_id, result_id, save_id, fence, checksum, strategy, labels, statistics,
                                           header, stored_bytes, create_time, expire_time)
              SELECT 'default', gen_random_uuid(), gen_random_uuid(), 1, '', 'x', '{}', '{}', %s, 100,
                clock_timestamp(), clock_timestamp() + make_interval(secs => %s)
              FROM generate_series(1, %s) RETURNING save_id
            )
            INSERT INTO results.chunks (save_id, kind, first_row, row_count, packing, payload)
            SELECT save_id, 'equity', 0, 1, 1, '' FROM made
            """,
            (make_header().SerializeToString(), seconds, count),
        )


def count(url: str, what: str) -> int:
    with psycopg.connect(libpq_url(url)) as connection:
        [found] = connection.execute(f"SELECT count(*) FROM results.{what}").fetchone() or [0]  # type: ignore[arg-type]
    return int(found)


def wait_until_empty(url: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while count(url, "results"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_f2_f5_the_boundary_is_exact_whatever_the_clocks(replicas: list[Replica], database_url: str, seed: int) -> None:
    outcome = expiry.run(replicas, database_url, reads=5_000, seed=seed)
    assert clock_hours([one.log() for one in replicas]) == [0, 1, -1]  # the clocks were off
    assert outcome.near >= 500, outcome  # a tenth, as in the long form
    assert min(outcome.served, outcome.gone) > 300
    assert (outcome.late, outcome.early) == ([], [])


def clock_hours(logs: list[str]) -> list[int]:
    """Return by how many hours each service's log is off."""
    import datetime as dt

    found = []
    for log in logs:
        stamp = dt.datetime.fromisoformat(json.loads(log.splitlines()[0])["timestamp"])
        found.append(round((stamp.timestamp() - time.time()) / 3600))
    return found


def test_f3_sweepers_race_and_each_row_goes_once(replicas: list[Replica], database_url: str) -> None:
    insert_expiring(database_url, 10_000, 0.5)
    wait_until_empty(database_url)
    with psycopg.connect(libpq_url(database_url)) as connection:
        audit = connection.execute("SELECT count(*), count(DISTINCT result_id) FROM results.audit").fetchone()
        deadlocks = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert (audit, deadlocks, count(database_url, "chunks")) == ((10_000, 10_000), (0,), 0)
    swept = [metric(one, 'swept_total{reason="expired"}') for one in replicas]
    assert sum(swept) == 10_000
    assert sum(one > 0 for one in swept) > 1, swept  # it was a race
    assert sum(metric(one, 'swept_bytes_total{reason="expired"}') for one in replicas) == 10_000 * 100


def test_the_metrics_tell_what_waits_to_be_swept(home: Path, database_url: str) -> None:
    insert_expiring(database_url, 5, -60.0)
    with psycopg.connect(libpq_url(database_url)) as holder:
        holder.execute("SELECT FROM results.results FOR UPDATE")  # sweepers pass by
        with run_replicas(home, database_url, {"KLINECAST_SWEEP_EVERY_S": "0.05"}) as [replica]:
            wait_until(lambda: metric(replica, "sweep_backlog") == 5)
            assert metric(replica, "sweep_lag_seconds") >= 60
            holder.rollback()
            wait_until(lambda: metric(replica, "sweep_backlog") == metric(replica, "sweep_lag_seconds") == 0)


def metric(replica: Replica, name: str) -> float:
    """Return what the results service says of itself."""
    with urllib.request.urlopen(f"http://{replica.metrics}/metrics") as page:
        lines = page.read().decode().splitlines()
    [value] = [line.split()[-1] for line in lines if line.startswith(f"klinecast_results_{name} ")]
    return float(value)


def test_f4_a_result_deleted_while_it_streams_ends_aborted_or_whole(replicas: list[Replica]) -> None:
    request, whole, aborted = pb.StreamTradesRequest, 0, 0
    with replicas[0].client() as reader, replicas[1].client() as deleter:
        calls = reader._results
        for messages in (1, 1, 2, 2, 3, 3, 4, 4):  # that came before it is deleted; of four
            result = save(reader, trades=make_trades(60_000, seed=messages), result_id=str(uuid.uuid4()))
            stream = calls._caller.stream(calls._stub.StreamTrades, request(result_id=result.result_id))
            rows = [len(one.trades.profit) for one in itertools.islice(stream, messages)]
            deleter.delete_result(result.result_id)
            try:
                rows += [len(one.trades.profit) for one in stream]
                assert sum(rows) == 60_000
                whole += 1
            except Aborted:
                aborted += 1
    assert min(whole, aborted) > 0, (whole, aborted)


def test_f6_an_extension_that_answered_ok_is_never_swept(replicas: list[Replica]) -> None:
    extended: list[str] = []

    def extend(number: int) -> None:
        with replicas[number % 3].client() as client:
            for before_s in (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.064, 0.256):
                result = save(client, ttl_s=1.0)
                time.sleep(max((result.expire_time_ms or 0) / 1000 - time.time() - before_s, 0))
                try:
                    client.update_retention(result.result_id, ttl_s=3600)
                except NotFound:
                    continue
                extended.append(result.result_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(extend, range(8)))
    time.sleep(0.2)
    with replicas[0].client() as client:
        assert 0 < len(extended) < 64, len(extended)  # some came too late: the race was one
        assert len(client.check_results(extended)) == len(extended)


def test_f7_a_sweeper_killed_in_a_batch_leaves_no_orphan(home: Path, database_url: str) -> None:
    for attempt in range(3):
        insert_expiring(database_url, 3_000, 0.0)
        with run_replicas(home / str(attempt), database_url, {"KLINECAST_SWEEP_EVERY_S": "0.01"}) as [replica]:
            while count(database_url, "results") == 3_000:
                time.sleep(0.001)
            replica.process.kill()
            replica.process.wait()
        left = count(database_url, "results")
        assert 0 < left < 3_000
        assert count(database_url, "chunks") == left
        with psycopg.connect(libpq_url(database_url)) as connection:
            connection.execute("DELETE FROM results.results")
            connection.execute("DELETE FROM results.chunks")


def test_chunks_without_a_header_are_found_and_deleted(home: Path, database_url: str) -> None:
    old, new = uuid.uuid4(), uuid.uuid4()
    with psycopg.connect(libpq_url(database_url)) as connection:
        for save_id, age in ((old, "2 hours"), (new, "1 minute")):
            connection.execute(
                "INSERT INTO results.chunks (save_id, kind, first_row, row_count, payload, create_time) "
                "SELECT %s, 'equity', n, 1, '', clock_timestamp() - %s::interval FROM generate_series(1, 3000) AS n",
                (save_id, age),
            )
    with run_replicas(home, database_url, {}) as [replica], replica.client() as client:
        result = save(client, equity=make_equity(10))
        deadline = time.monotonic() + 20
        while count(database_url, f"chunks WHERE save_id = '{old}'"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert count(database_url, f"chunks WHERE save_id = '{new}'") == 3000  # a save under way
        assert len(client.load_equity(result.result_id)["equity"]) == 10


def test_memory_stays_flat_over_many_results(home: Path, database_url: str) -> None:
    equity = make_equity(2_000)
    settings = {"KLINECAST_RESULT_CACHE_BYTES": "1000000"}
    with run_replicas(home, database_url, settings) as [replica], replica.client() as client:
        turn(client, equity, 300)
        before = rss(replica.process)
        turn(client, equity, 700)
        assert rss(replica.process) < before * 1.05


def turn(client: Client, equity: dict, times: int) -> None:
    for _ in range(times):
        result = save(client, equity=equity, result_id=str(uuid.uuid4()), ttl_s=2)
        client.load_equity(result.result_id)


def rss(process: psutil.Process) -> int:
    return process.memory_info().rss
