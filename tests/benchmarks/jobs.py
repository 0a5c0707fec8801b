"""make bench-jobs: how long a backtest waits for its start, and how many a machine gets through, on both executors."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from klinecast.client import BacktestConfig, Client
from services.runtime.database import libpq_url
from tests.benchmarks.bench import Row, durable_suite, median_ms, percentile, publish
from tests.factories import make_config
from tests.faults.deployment import EXECUTORS
from tests.suite import Suite

YEAR, SMALL = 8_760, 200
IDLE, PER_S, SECONDS, MANY = 100, 50.0, 10.0, 300


def main() -> None:
    """Measure and publish."""
    rows: list[Row] = []
    for executor in EXECUTORS:
        with durable_suite(executor=executor) as suite, suite.client() as client:
            rows += measure(executor, suite, client)
    publish("bench-jobs", rows)


def measure(executor: str, suite: Suite, client: Client) -> list[Row]:
    """Return the rows of an executor, beside one fsync and one unary call with one read."""
    year, small = make_config(client, klines=YEAR), make_config(client, klines=SMALL)
    for _ in range(20):
        run(client, year)
    fsync, last = fsync_ms(), client.create_backtest(small).backtest_id
    unary = median_ms(lambda: client.get_backtest(last), IDLE)

    def row(name: str, value: float, unit: str, yardstick: str, by: float) -> Row:
        return Row(f"{executor}_{name}", value, unit, yardstick, value / by)

    beside = f"one unary call with one read, {unary:.2f} ms"
    idle, busy = at_idle(suite, client, small), at_pace(suite, client, small)
    terminal = median_ms(lambda: run(client, year), IDLE)
    return [
        row("submit_to_start_p50_ms", statistics.median(idle), "ms", beside, unary),
        row("submit_to_start_p99_ms", percentile(idle, 99), "ms", beside, unary),
        row("submit_to_start_50_per_s_p50_ms", statistics.median(busy), "ms", beside, unary),
        row("submit_to_start_50_per_s_p99_ms", percentile(busy, 99), "ms", beside, unary),
        row("submit_to_terminal_p50_ms", terminal, "ms", beside, unary),
        Row(f"{executor}_backtests_per_second", throughput(client, year), "1/s", "2 workers, 8,760 klines", None),
        Row(f"{executor}_fsync_ms", fsync, "ms", "4 KiB written and flushed", None),
    ]


def run(client: Client, config: BacktestConfig) -> None:
    last = list(client.run_backtest(config))[-1]
    assert last.state == "SUCCEEDED", last
    assert not last.reused


def at_idle(suite: Suite, client: Client, config: BacktestConfig) -> list[float]:
    """Return the milliseconds from a call to the start, one backtest at a time."""
    called = {}
    for _ in range(IDLE):
        now = time.time()
        backtest_id = client.create_backtest(config).backtest_id
        called[backtest_id] = now
        list(client.watch_backtest(backtest_id))
    return waits(suite, called)


def at_pace(suite: Suite, client: Client, config: BacktestConfig) -> list[float]:
    """Return the same, fifty calls a second whatever became of the earlier ones."""
    called: dict[str, float] = {}
    begun = time.time()

    def create(number: int) -> None:
        due = begun + number / PER_S
        time.sleep(max(0.0, due - time.time()))
        called[client.create_backtest(config).backtest_id] = due

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(int(PER_S * SECONDS))))
    for backtest_id in list(called)[-20:]:
        list(client.watch_backtest(backtest_id))
    return waits(suite, called)


def waits(suite: Suite, called: dict[str, float]) -> list[float]:
    """Return the milliseconds from each call to the claim, which Postgres on this machine timed by the same clock."""
    query = """SELECT backtest_id::text, extract(epoch FROM first_start_time)::float8 FROM backtest.backtests
               WHERE first_start_time IS NOT NULL"""
    with psycopg.connect(libpq_url(suite.database_url)) as connection:
        started = dict(connection.execute(query).fetchall())
    return [1000 * (started[one] - at) for one, at in called.items() if one in started]


def throughput(client: Client, config: BacktestConfig) -> float:
    """Return how many backtests a second end, a few hundred waiting at first."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: client.create_backtest(config).backtest_id, range(MANY)))
        ends = list(pool.map(lambda one: list(client.watch_backtest(one))[-1], ids))
    assert {end.state for end in ends} == {"SUCCEEDED"}
    return MANY / (time.perf_counter() - begun)


def fsync_ms() -> float:
    """Return what the disk takes to keep one page."""
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:

        def flush() -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

        return median_ms(flush, IDLE)


if __name__ == "__main__":
    main()
