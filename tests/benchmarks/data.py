"""make bench-data: streams and ingests of the data service beside what the machine and the field can do."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg

from klinecast.client import Client, SeriesKey
from klinecast.interval import Interval
from klinecast.types import MarketType
from services.data import statements
from services.data.arrays import copy_rows
from services.local.postgres import PostgresServer
from tests import postgres
from tests.benchmarks.bench import Row, publish
from tests.benchmarks.flight import flight_target, make_columns, read_flight
from tests.suite import Suite

YEAR_1M, YEAR_1H, LONG = 525_600, 8_760, 5_000_000
TIMES = 9
MINUTE, HOUR = 60_000, 3_600_000
START_MS = 1_640_995_200_000
LONG_START_MS = 1_262_304_000_000
CLIENTS = 8
CACHE_MB = 256
_BEST_FLIGHT_BATCH = 32_768  # of 8,192 to 65,536 klines a batch; also the most a message of ours may hold


def main() -> None:
    """Measure and publish."""
    with postgres.make_home() as home, PostgresServer(home, durable=True) as server:
        url = server.url(postgres.build_template(server, name="bench"))
        rows = measure_ingest(home, url)
        rows += measure_streams(home, url)
        rows += measure_memory(home, url)
    publish("bench-data", rows)


def measure_ingest(home: Path, url: str) -> list[Row]:
    """Compare an ingest of new klines with COPY of the same rows into a bare table with the same key."""
    columns = make_columns(YEAR_1M)
    with data_service(home, url) as service:

        def ingest() -> float:
            key = make_key("1m", f"T{uuid.uuid4().hex[:12]}")
            taken = _seconds(lambda: service.ingest_klines(key, [columns]))
            service.delete_klines(key, START_MS, START_MS + YEAR_1M * MINUTE)
            return taken

        ours, copy = _in_turn(ingest, lambda: _copy_s(url, columns))
        service.ingest_klines(make_key("1m"), [columns])
        service.ingest_klines(make_key("1h"), [make_columns(YEAR_1H, step_ms=HOUR)])
    _vacuum(url)
    return [Row("ingest", ours, "s", f"COPY BINARY into a bare table with the same key ({copy:.2f} s)", ours / copy)]


def measure_streams(home: Path, url: str) -> list[Row]:
    """Compare warm streams with Flight and cold ones with the bare index scan, each with its yardstick in turn."""
    pairs: dict[str, tuple[float, float]] = {}
    with _service(home, url) as suite, flight_target(_BEST_FLIGHT_BATCH) as flight, suite.client() as warm:
        for name, burst in (("year_1m", 3), ("year_1h", 20)):
            with _reader("klines", suite.target("data"), name) as ours, _reader("flight", flight, name) as theirs:
                pairs[name] = _in_turn(ours, theirs, burst=burst)
        rows = _in_turn(lambda: _read_rows(warm), lambda: _load(warm, "1h"))
    with data_service(home, url, CACHE_BYTES="0") as cold, psycopg.connect(url, autocommit=True) as connection:
        scan = _in_turn(lambda: _load(cold, "1m"), lambda: _scan_s(connection))
        unread = _in_turn(lambda: _read_first_time(cold, connection), lambda: _scan_s(connection))
        first = _in_turn(lambda: _first_batch(cold), lambda: cold.get_series(make_key("1m")))
    year, hours = pairs["year_1m"], pairs["year_1h"]
    return [
        Row("warm_stream", YEAR_1M / year[0], "/s", f"Flight ({YEAR_1M / year[1]:,.0f}/s)", year[1] / year[0]),
        Row("cold_stream", scan[0] * 1000, "ms", f"bare index scan ({scan[1] * 1000:.0f} ms)", scan[0] / scan[1]),
        Row("first_read_ms", unread[0] * 1000, "ms", "bare index scan", unread[0] / unread[1]),
        Row("first_batch_ms", first[0] * 1000, "ms", f"GetSeries ({first[1] * 1000:.2f} ms)", first[0] / first[1]),
        Row("year_1h_warm_ms", hours[0] * 1000, "ms", f"Flight ({hours[1] * 1000:.2f} ms)", hours[0] / hours[1]),
        Row("row_messages", YEAR_1H / rows[0], "/s", "the same klines in one message", rows[1] / rows[0]),
    ]


def measure_memory(home: Path, url: str) -> list[Row]:
    """Watch the server's resident memory while 8 clients stream 5 million klines each."""
    key = make_key("1m", "LONG")
    with data_service(home, url) as service:
        for start in range(0, LONG, 500_000):
            service.ingest_klines(key, [make_columns(500_000, start_ms=LONG_START_MS + start * MINUTE)])
    _vacuum(url)
    with _service(home, url) as suite, suite.client() as client:
        _load(client, "1h")
        base = suite.process("data").memory_info().rss / 1e6
        growths = [_peak_mb(suite) - base for _ in range(7)]
    growth = max(growths)
    print("growth of each round (MB):", " ".join(f"{one:.0f}" for one in growths))
    return [Row("rss_8_clients_mb", growth, "MB", f"cache budget ({CACHE_MB} MiB)", growth * 1e6 / (CACHE_MB << 20))]


def _peak_mb(suite: Suite) -> float:
    """Return the most memory the service had while 8 processes streamed the long series."""
    process = suite.process("data")
    command = [sys.executable, "-m", "tests.benchmarks.data", "long", suite.target("data")]
    clients = [subprocess.Popen(command) for _ in range(CLIENTS)]
    peak = 0.0
    while any(client.poll() is None for client in clients):
        peak = max(peak, process.memory_info().rss / 1e6)
        time.sleep(0.005)
    assert all(client.returncode == 0 for client in clients)
    return peak


def read_long(target: str) -> None:
    """Stream the long series once and keep nothing."""
    with Client(data=target) as client:
        end_ms = LONG_START_MS + LONG * MINUTE
        count = sum(len(batch) for batch in client.stream_klines(make_key("1m", "LONG"), LONG_START_MS, end_ms))
    assert count == LONG


@contextmanager
def data_service(home: Path, url: str, **settings: str) -> Iterator[Client]:
    """Yield a client of a data service of its own."""
    with _service(home, url, **settings) as suite, suite.client() as client:
        yield client


def make_key(interval: str, symbol: str = "BTCUSDT") -> SeriesKey:
    """Return the key of a series."""
    return SeriesKey("BENCH", MarketType.SPOT, symbol, Interval(interval))


@contextmanager
def _service(home: Path, url: str, **settings: str) -> Iterator[Suite]:
    environment = {f"KLINECAST_{name}": value for name, value in settings.items()}
    suite = Suite(home, {"KLINECAST_DATABASE__URL": url} | environment)
    try:
        suite.start("data")
        yield suite
    finally:
        suite.stop()


@contextmanager
def _reader(library: str, target: str, name: str) -> Iterator[Callable[[], float]]:
    """Yield a function that reads a table in a client process of its own and returns the seconds it took."""
    command = [sys.executable, "-m", "tests.benchmarks.data", library, target, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def read() -> float:
            stdin.write("\n")
            return float(stdout.readline())

        yield read
        stdin.close()


def serve_reads(library: str, target: str, name: str) -> None:
    """Read a table for each line that comes in; print the seconds."""
    with Client(data=target) as client:
        reads = read_flight(target, name) if library == "flight" else iter(lambda: _load(client, name[-2:]), None)
        for _ in sys.stdin:
            print(_seconds(lambda: next(reads)), flush=True)


def _in_turn(call: Callable[[], object], yardstick: Callable[[], object], *, burst: int = 1) -> tuple[float, float]:
    """Return the median seconds of both, called in turn, `burst` times each; what returns seconds timed itself."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(-2, TIMES):
        for one, seconds in ((call, taken[0]), (yardstick, taken[1])):
            for _ in range(burst):
                start = time.perf_counter()
                found = one()
                if turn >= 0:
                    seconds.append(found if isinstance(found, float) else time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _first_batch(client: Client) -> None:
    stream = client.stream_klines(make_key("1m"), START_MS, START_MS + YEAR_1M * MINUTE)
    assert len(next(iter(stream))) == 4_096
    stream.close()  # type: ignore[attr-defined]


def _load(client: Client, interval: str) -> int:
    klines = YEAR_1M if interval == "1m" else YEAR_1H
    step_ms = MINUTE if interval == "1m" else HOUR
    loaded = client.load_klines(make_key(interval), START_MS, START_MS + klines * step_ms)
    assert len(loaded.klines) == klines
    return klines


def _read_first_time(client: Client, connection: psycopg.Connection[tuple[object, ...]]) -> float:
    """Return the seconds of reading a year that nobody has read: none of its blocks is sealed."""
    key = make_key("1m", f"T{uuid.uuid4().hex[:12]}")
    client.ingest_klines(key, [make_columns(YEAR_1M)])
    connection.execute("VACUUM data.klines")
    taken = _seconds(lambda: client.load_klines(key, START_MS, START_MS + YEAR_1M * MINUTE))
    client.delete_klines(key, START_MS, START_MS + YEAR_1M * MINUTE)
    return taken


def _read_rows(client: Client) -> None:
    stream = client.stream_klines(make_key("1h"), START_MS, START_MS + YEAR_1H * HOUR, batch_size=1)
    assert sum(1 for _ in stream) == YEAR_1H


def _scan_s(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    found = connection.execute("SELECT id FROM data.series WHERE symbol = 'BTCUSDT' AND interval = '1m'").fetchone()
    assert found is not None
    connection.execute("SET enable_seqscan = off")
    connection.execute("SET enable_bitmapscan = off")
    query = f"""
        EXPLAIN (ANALYZE, FORMAT JSON) SELECT open_time, open, high, low, close, volume FROM data.klines
        WHERE series_id = {found[0]} ORDER BY open_time
    """
    row = connection.execute(query).fetchone()
    assert row is not None
    plan = row[0][0]  # type: ignore[index]
    assert "Index Only Scan" in str(plan), plan
    return float(plan["Execution Time"]) / 1000


def _copy_s(url: str, columns: dict[str, np.ndarray]) -> float:
    named = {"series_id": np.full(YEAR_1M, 1), "open_time": columns["open_time_ms"], **columns}
    del named["open_time_ms"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bare")
        connection.execute("CREATE TABLE bare (LIKE data.klines INCLUDING INDEXES)")
        start = time.perf_counter()
        statement = statements.copy_klines(named).replace("data.klines", "bare")
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(copy_rows(named))
        taken = time.perf_counter() - start
        connection.execute("DROP TABLE bare")
    return taken


def _vacuum(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "long":
        read_long(sys.argv[2])
    else:
        serve_reads(*sys.argv[1:])
