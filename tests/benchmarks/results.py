"""make bench-results: what a result weighs, how long a large one takes, and readers while a million results expire."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import LiteralString, TypeVar

import numpy as np
import psutil
import psycopg

from klinecast.api.results.v1 import result_pb2
from klinecast.client import BacktestConfig, Client, SeriesKey
from klinecast.convert.results import columns_to_message
from klinecast.interval import Interval
from klinecast.types import MarketType
from services.local.postgres import PostgresServer
from services.runtime.database import libpq_url
from tests import postgres
from tests.benchmarks.bench import Row, durable_suite, judge, percentile, publish
from tests.factories import START_MS, make_columns
from tests.results import Columns, make_equity, make_header, make_trades, run_replicas, save

YEAR, MILLION = 525_600, 1_000_000
READS_PER_S, SAVES_PER_S, QUIET_S = 90.0, 10.0, 30.0
LEAD_S = 240.0
"""What inserting a million results, a vacuum and the quiet readers have until they expire."""
_LOCK_WAIT_MS = 50.0
"""Most that a statement may wait for a lock."""
_JSON_ROWS = 20_000
_MINUTE_MS = 60_000
Found = TypeVar("Found")
Taken = dict[str, list[float]]
"""Milliseconds of each call, by read and save."""

_INSERT = """
WITH made AS (
  INSERT INTO results.results (tenant_id, result_id, save_id, fence, checksum, strategy, labels, statistics, header,
                               stored_bytes, create_time, expire_time)
  SELECT 'tenant-' || n %% 100, gen_random_uuid(), gen_random_uuid(), 1, '', 'dual_ma', '{}', '{"sharpe": 1.5}',
    %(header)s, 1000, clock_timestamp(), to_timestamp(%(expire)s)
  FROM generate_series(1, %(count)s) AS n RETURNING save_id
)
INSERT INTO results.chunks (save_id, kind, first_row, row_count, packing, payload)
SELECT save_id, 'equity', 0, 24, 1, convert_to(repeat(md5(save_id::text), 12), 'UTF8') FROM made
"""
_LEFT = """
SELECT count(*) FROM (SELECT FROM results.results WHERE NOT pinned AND expire_time < clock_timestamp() LIMIT 1) AS due
"""
_LOCK_WAIT = """
SELECT 1000 * coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)), 0)::float8
FROM pg_locks WHERE NOT granted
"""
_DISK = """
SELECT sum(octet_length(payload))::float8 / sum(row_count) FROM results.chunks AS chunk
JOIN results.results AS result USING (save_id) WHERE result_id = %s AND kind = %s
"""


def main() -> int:
    """Measure, publish and judge."""
    with durable_suite() as suite, suite.client() as client, psycopg.connect(libpq_url(suite.database_url)) as database:
        rows = weigh(client, database)
        rows += save_large(client, database, suite.process("results"))
    rows += sweep_a_million()
    publish("bench-results", rows)
    return judge(rows, {"sweep_foreground_p99": 2.0, "sweep_longest_lock_wait_ms": 1.0})


def weigh(client: Client, database: psycopg.Connection) -> list[Row]:
    """Return the bytes that a trade and a kline of equity take, of a backtest over a year of minutes."""
    result_id = list(client.run_backtest(make_year(client)))[-1].result_id
    return [
        weight("bytes_per_trade", database, result_id, "trades", client.load_trades(result_id)),
        weight("bytes_per_equity_kline", database, result_id, "equity", client.load_equity(result_id)),
    ]


def make_year(client: Client) -> BacktestConfig:
    """Ingest a year of minutes, prices in cents, and return a config over all of it."""
    series = SeriesKey("BENCH", MarketType.SPOT, "YEAR", Interval.M1)
    columns = {name: np.round(column, 2) for name, column in make_columns(YEAR).items()}
    columns["open_time_ms"] = START_MS + _MINUTE_MS * np.arange(YEAR)
    client.ingest_klines(series, [columns])
    end_ms = START_MS + _MINUTE_MS * YEAR
    params = {"fast": 10, "slow": 30}
    return BacktestConfig(strategy="dual_ma", series=series, start_ms=START_MS, end_ms=end_ms, params=params)


def weight(name: str, database: psycopg.Connection, result_id: str, kind: str, columns: Columns) -> Row:
    """Return the bytes a row takes in the table beside what the same rows are as JSON."""
    stored = disk_bytes(database, result_id, kind)
    as_json = json_bytes(columns)
    return Row(
        name,
        stored,
        "B",
        f"JSON, {as_json:.1f} B ({len(columns['equity' if kind == 'equity' else 'profit'])} rows)",
        stored / as_json,
    )


def disk_bytes(database: psycopg.Connection, result_id: str, kind: str) -> float:
    """Return the bytes of payload a row."""
    [found] = database.execute(_DISK, (result_id, kind)).fetchone() or [0.0]
    return float(found)


def json_bytes(columns: Columns) -> float:
    """Return the bytes a row takes as an object of a JSON array."""
    some = {name: column[:_JSON_ROWS].tolist() for name, column in columns.items()}
    rows = [dict(zip(some, row, strict=True)) for row in zip(*some.values(), strict=True)]
    return len(json.dumps(rows, separators=(",", ":"))) / len(rows)


def save_large(client: Client, database: psycopg.Connection, service: psutil.Process) -> list[Row]:
    """Save and stream a million trades and a year of minutes of equity; they come back equal, or this fails."""
    trades, equity = make_trades(MILLION), make_equity(YEAR)
    save(client, trades=make_trades(1000), equity=make_equity(1000))
    before = service.memory_info().rss
    copied = copy_seconds(trades, equity)
    with peak_memory(service) as peak:
        saved, result = timed(lambda: save(client, trades=trades, equity=equity))
    with peak_memory(service) as reading:
        loaded, (found_trades, found_equity) = timed(
            lambda: (client.load_trades(result.result_id), client.load_equity(result.result_id))
        )
    for sent, found in ((trades, found_trades), (equity, found_equity)):
        assert all(found[name].tobytes() == column.tobytes() for name, column in sent.items())
    weights = [disk_bytes(database, result.result_id, kind) for kind in ("trades", "equity")]
    size, as_json = weights[0] * MILLION + weights[1] * YEAR, json_bytes(trades) * MILLION + json_bytes(equity) * YEAR
    beside = f"the same messages built and parsed here, {copied:.2f} s"
    return [
        Row("save_1m_trades_s", saved, "s", beside, saved / copied),
        Row("load_1m_trades_s", loaded, "s", beside, loaded / copied),
        Row("save_1m_trades_peak_mb", peak[0] / 1e6, "MB", f"at rest, {before / 1e6:.0f} MB", peak[0] / before),
        Row("load_1m_trades_peak_mb", reading[0] / 1e6, "MB", f"at rest, {before / 1e6:.0f} MB", reading[0] / before),
        Row("disk_1m_trades_mb", size / 1e6, "MB", f"JSON, {as_json / 1e6:.0f} MB", size / as_json),
    ]


def copy_seconds(trades: Columns, equity: Columns) -> float:
    """Return how long it takes to build and parse the messages: what any transport costs at least."""
    started = time.perf_counter()
    for message, columns in ((result_pb2.TradeColumns(), trades), (result_pb2.EquityColumns(), equity)):
        rows = len(next(iter(columns.values())))
        for first in range(0, rows, 16_384):
            message.Clear()
            columns_to_message(message, {name: column[first : first + 16_384] for name, column in columns.items()})
            type(message).FromString(message.SerializeToString())
    return time.perf_counter() - started


@contextlib.contextmanager
def peak_memory(process: psutil.Process) -> Iterator[list[int]]:
    """Yield a list that holds, after the block, the most resident bytes that the process had meanwhile."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the high-water mark begins anew
    peak: list[int] = []
    yield peak
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    peak.extend(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def timed(call: Callable[[], Found]) -> tuple[float, Found]:
    """Return the seconds of a call and what it returned."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def sweep_a_million() -> list[Row]:
    """Let a million results of a hundred tenants expire at one instant while others read; each must go once."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(postgres.make_home())
        server = stack.enter_context(PostgresServer(home, durable=True))
        url = server.url(postgres.build_template(server, name="bench"))
        replicas = stack.enter_context(run_replicas(home, url, {}, {}))
        database = stack.enter_context(psycopg.connect(libpq_url(url), autocommit=True))
        foreground = Foreground([stack.enter_context(one.client()) for one in replicas])
        database = stack.enter_context(psycopg.connect(libpq_url(url), autocommit=True))
        expiry = insert_million(database)
        quiet = foreground.call_while(lambda seconds: seconds < QUIET_S)
        assert time.time() < expiry - 1, "the machine is too slow: raise LEAD_S"
        time.sleep(expiry - time.time())
        swept, longest, busy = sweep_under_calls(database, foreground)
        gone = one_number(database, "SELECT count(DISTINCT (tenant_id, result_id)) FROM results.audit")
        assert one_number(database, "SELECT count(*) FROM results.audit") == gone == MILLION
        assert one_number(database, "SELECT count(*) FROM results.results") == len(foreground.kept)
        assert one_number(database, "SELECT count(*) FROM results.chunks") == len(foreground.kept)
    return [
        *(foreground_row(name, quiet, busy, percent) for name in ("read", "save") for percent in (50, 99)),
        Row("sweep_1m_s", swept, "s", "two replicas, none told to hurry", None),
        Row("sweep_longest_lock_wait_ms", longest, "ms", f"at most, {_LOCK_WAIT_MS:.0f} ms", longest / _LOCK_WAIT_MS),
        Row("sweep_deleted_once", gone, "", "results that expired", gone / MILLION),
    ]


def foreground_row(call: str, quiet: Taken, busy: Taken, percent: int) -> Row:
    """Return what calls took under the sweep beside what they took before it."""
    name = "sweep_foreground" + ("_save" if call == "save" else "") + f"_p{percent}"
    calm, under = percentile(quiet[call], percent), percentile(busy[call], percent)
    return Row(name, under, "ms", f"quiet, {calm:.2f} ms", under / calm)


def insert_million(database: psycopg.Connection) -> float:
    """Insert them and return when they expire, in seconds of the epoch."""
    header = make_header(strategy="dual_ma").SerializeToString()
    expiry = time.time() + LEAD_S
    for _ in range(10):
        database.execute(_INSERT, {"header": header, "expire": expiry, "count": MILLION // 10})
        print(".", end="", flush=True)
    database.execute("VACUUM (ANALYZE) results.results, results.chunks")
    database.execute("CHECKPOINT")
    print(f" inserted, {expiry - time.time():.0f} s before they expire", flush=True)
    return expiry


def sweep_under_calls(database: psycopg.Connection, foreground: Foreground) -> tuple[float, float, Taken]:
    """Call until all that expired is gone; return the seconds, the longest wait for a lock in ms, and the calls."""
    waits, left = [0.0], [True]
    started = time.monotonic()

    def watch() -> None:
        while left[0]:
            waits.append(one_number(database, _LOCK_WAIT))
            if len(waits) % 200 == 0:
                left[0] = one_number(database, _LEFT) > 0
            time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    busy = foreground.call_while(lambda _: left[0])
    watching.join()
    return time.monotonic() - started, max(waits), busy


class Foreground:
    """Callers at a steady pace, whatever became of the calls before: milliseconds count from when each was due."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._equity = make_equity(500)
        self.kept = [save(client, equity=self._equity) for client in clients for _ in range(100)]

    def call_while(self, goes_on: Callable[[float], bool]) -> Taken:
        """Read and save for as long as told."""
        taken: Taken = {"read": [], "save": []}
        with ThreadPoolExecutor(2) as pool:
            calls = (("read", READS_PER_S, self._read), ("save", SAVES_PER_S, self._save))
            list(pool.map(lambda one: self._pace(taken[one[0]], one[1], one[2], goes_on), calls))
        return taken

    def _pace(
        self, taken: list[float], per_s: float, call: Callable[[int], object], goes_on: Callable[[float], bool]
    ) -> None:
        begun = time.monotonic()
        while goes_on(time.monotonic() - begun):
            due = begun + len(taken) / per_s
            time.sleep(max(due - time.monotonic(), 0))
            call(len(taken))
            taken.append(1000 * (time.monotonic() - due))

    def _read(self, nth: int) -> None:
        self._client(nth).get_result(self.kept[nth % len(self.kept)].result_id)

    def _save(self, nth: int) -> None:
        self.kept.append(save(self._client(nth), equity=self._equity))

    def _client(self, nth: int) -> Client:
        return self._clients[nth % len(self._clients)]


def one_number(database: psycopg.Connection, query: LiteralString) -> float:
    """Return the only number of a query's answer."""
    [found] = database.execute(query).fetchone() or [0]
    return float(found)


if __name__ == "__main__":
    sys.exit(main())
