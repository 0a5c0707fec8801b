"""The yardstick of streams: pyarrow Flight serving the same columns from memory in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from klinecast.columns import Column

_ROWS = {"year_1m": 525_600, "year_1h": 8_760}


def make_columns(klines: int, *, start_ms: int = 1_640_995_200_000, step_ms: int = 60_000) -> dict[str, Column]:
    """Return OHLCV columns of a random walk."""
    random = np.random.default_rng(7)
    close = 30_000 * np.exp(np.cumsum(random.normal(0, 0.0005, klines)))
    open_ = np.concatenate(([30_000.0], close[:-1]))
    spread = 1 + np.abs(random.normal(0, 0.0003, klines))
    return {
        "open_time_ms": start_ms + step_ms * np.arange(klines, dtype=np.int64),
        "open": open_,
        "high": np.maximum(open_, close) * spread,
        "low": np.minimum(open_, close) / spread,
        "close": close,
        "volume": random.exponential(10, klines),
    }


@contextlib.contextmanager
def flight_target(batch_klines: int) -> Iterator[str]:
    """Yield host:port of a server that cuts its tables into batches of so many klines."""
    command = [sys.executable, "-m", "tests.benchmarks.flight", str(batch_klines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def read_flight(target: str, name: str) -> Iterator[int]:
    """Read a table into numpy arrays at each step; yield its rows."""
    with flight.connect(f"grpc://{target}") as client:
        while True:
            table = client.do_get(flight.Ticket(name.encode())).read_all()
            columns = {column: table[column].to_numpy() for column in table.column_names}
            yield len(columns["close"])


class _Server(flight.FlightServerBase):
    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._tables = tables

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.RecordBatchStream:
        """Send a table."""
        return flight.RecordBatchStream(self._tables[ticket.ticket.decode()])


def main() -> None:
    """Serve the tables until killed; the port is the first line printed."""
    size = int(sys.argv[1])
    tables = {name: pa.table(make_columns(rows)) for name, rows in _ROWS.items()}
    cut = {name: pa.Table.from_batches(table.to_batches(max_chunksize=size)) for name, table in tables.items()}
    server = _Server(cut)
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
