"""Results for tests: headers and columns of any size, and replicas of the results service on a test's database."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from klinecast.api.backtest.v1 import backtest_pb2
from klinecast.api.results.v1 import result_pb2
from klinecast.client import Client, Result
from klinecast.columns import Column
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.series import SeriesKey
from services.local.ports import Ports
from services.local.process import ServiceProcess
from tests.factories import HOUR_MS, START_MS, make_series

Columns = dict[str, Column]


def make_equity(rows: int, seed: int = 7) -> Columns:
    """Return equity that wanders, beside closes of two decimals."""
    random = np.random.default_rng(seed)
    close = np.round(40_000 * np.exp(np.cumsum(random.normal(0, 0.001, rows))), 2)
    return {
        "open_time_ms": START_MS + HOUR_MS * np.arange(rows),
        "equity": 10_000 * np.exp(np.cumsum(random.normal(0, 0.001, rows))),
        "close": close,
    }


def make_trades(rows: int, seed: int = 7) -> Columns:
    """Return trades of three klines each."""
    random = np.random.default_rng(seed)
    entry = 3 * np.arange(rows)
    price = np.round(40_000 * np.exp(np.cumsum(random.normal(0, 0.001, rows))), 2)
    quantity, gain = 10_000 / price, random.normal(0, 0.01, rows)
    return {
        "entry_index": entry,
        "exit_index": entry + 2,
        "entry_time_ms": START_MS + HOUR_MS * entry,
        "exit_time_ms": START_MS + HOUR_MS * (entry + 2),
        "side": np.ones(rows, np.int64),
        "quantity": quantity,
        "entry_price": price,
        "exit_price": np.round(price * (1 + gain), 2),
        "profit": quantity * price * gain,
        "fees": quantity * price * 0.002,
        "funding": np.zeros(rows),
        "exit_reason": np.ones(rows, np.int64),
        "series": np.zeros(rows, np.int64),
    }


def make_header(
    result_id: str | None = None,
    *,
    strategy: str = "dual_ma",
    series: SeriesKey | None = None,
    params: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    statistics: Mapping[str, float] | None = None,
    start_ms: int = START_MS,
    rows: tuple[int, int] = (0, 0),
) -> result_pb2.ResultHeader:
    """Return the header of a result; `rows` of trades and of equity."""
    config = backtest_pb2.BacktestConfig(
        strategy=strategy,
        series=[series_to_proto(series or make_series("BTCUSDT"))],
        start_time=timestamp_to_proto(start_ms),
        end_time=timestamp_to_proto(start_ms + HOUR_MS * 24),
        labels=dict(labels or {}),
        initial_cash=10_000.0,
    )
    config.params.update(dict(params or {}))
    return result_pb2.ResultHeader(
        result_id=result_id or str(uuid.uuid4()),
        config=config,
        statistics=dict(statistics or {"total_return": 0.1}),
        initial_cash=10_000.0,
        final_equity=11_000.0,
        kline_count=24,
        trade_rows=rows[0],
        equity_rows=rows[1],
    )


def save(
    client: Client,
    *,
    trades: Columns | None = None,
    equity: Columns | None = None,
    fence: int = 1,
    ttl_s: float | None = None,
    **header: object,
) -> Result:
    """Save a result as a worker does."""
    rows = tuple(0 if columns is None else len(next(iter(columns.values()))) for columns in (trades, equity))
    made = make_header(rows=rows, **header)  # type: ignore[arg-type]
    return client.save_result(made, trades=trades, fills=None, equity=equity, fence=fence, ttl_s=ttl_s)


def wait_until(check: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once something holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Replica:
    """A results service as a process."""

    service: ServiceProcess

    @property
    def process(self) -> psutil.Process:
        """Its process, to be killed or looked at."""
        return psutil.Process(self.service.pid)

    @property
    def metrics(self) -> str:
        """host:port of its Prometheus page."""
        return self.service.metrics

    def client(self, **options: object) -> Client:
        """Return a client of it."""
        return Client(results=self.service.target, **options)  # type: ignore[arg-type]

    def log(self) -> str:
        """Return what it logged."""
        return self.service.log_file.read_text()


@contextlib.contextmanager
def run_replicas(home: Path, url: str, *environments: Mapping[str, str]) -> Iterator[list[Replica]]:
    """Yield results services on one database, one for each environment; whole names, such as LD_PRELOAD, too."""
    pipe = os.pipe()
    replicas = []
    try:
        for index, variables in enumerate(environments):
            folder = home / f"replica-{index}"
            (folder / "logs").mkdir(parents=True)
            service = ServiceProcess("results", folder, ports=Ports(0, 0), package="services")
            service.start({"KLINECAST_DATABASE__URL": url, **variables}, pipe_fd=pipe[0])
            replicas.append(Replica(service))
        deadline = time.monotonic() + 60
        while not all(one.service.check_serving() for one in replicas):
            assert time.monotonic() < deadline, [one.log()[-2000:] for one in replicas]
            time.sleep(0.02)
        yield replicas
    finally:
        for one in replicas:
            if one.service.exit_code is None:
                one.service.stop()
        for end in pipe:
            os.close(end)
