"""One run of each engine over the same klines and the same decisions, measured in a process of its own.

python -m tests.benchmarks.engine_runs LIBRARY FILE.npz TIMES prints one JSON line: the median time from klines in
memory to full statistics and the trade list, what came out, and by how much a run lifts the process's memory.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

CASH, FEE = 10_000.0, 0.001
_UNITS = 1e-15
"""backtesting.py trades whole units: prices are scaled down so that a unit does not matter."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a library took, and what it found."""

    milliseconds: float
    final_equity: float
    trades: int
    peak_mb: float
    parts_ms: dict[str, float] = field(default_factory=dict)


Table = dict[str, np.ndarray]
Run = Callable[[], tuple[float, int]]


def klinecast(table: Table) -> Run:
    """Simulate and count with this engine."""
    from klinecast.types import ExecutionModel, KlineColumns, Signals
    from services.backtest.engine import simulate, warm
    from services.backtest.engine.statistics import compute_statistics

    warm()
    klines, interval = KlineColumns(**{name: table[name] for name in _COLUMNS}), str(table["interval"])
    signals, execution = Signals(table["target"]), ExecutionModel(taker_fee_bps=FEE * 1e4)

    def run() -> tuple[float, int]:
        outcome = simulate(klines, signals, execution, CASH)
        found = compute_statistics(outcome, klines, interval=interval)
        return float(outcome.equity[-1]), int(found["trade_count"])

    return run


def raptorbt(table: Table) -> Run:
    """Fill at the next bar's open, as it calls it; its metrics come with the run."""
    import raptorbt as library

    entries, exits = _crossings(table["target"])
    stamps = table["open_time_ms"] * 1_000_000
    columns = [table[name] for name in _COLUMNS[1:]]
    config = library.BacktestConfig(initial_capital=CASH, fees=FEE, fill_timing="next_bar_open")

    def run() -> tuple[float, int]:
        result = library.run_single_backtest(stamps, *columns, entries, exits, 1, 1.0, "X", config)
        metrics, trades = result.metrics, result.trades()
        return metrics.end_value, metrics.total_closed_trades if len(trades) else 0

    return run


def vectorbt(table: Table) -> Run:
    """Shift the signals by one kline and trade at the open."""
    import pandas as pd
    import vectorbt as library

    index = pd.to_datetime(table["open_time_ms"], unit="ms")
    close, opening = pd.Series(table["close"], index), pd.Series(table["open"], index)
    entries, exits = (pd.Series(np.append(False, one[:-1]), index) for one in _crossings(table["target"]))
    frequency = {"1h": "1h", "1m": "1min"}[str(table["interval"])]

    def run() -> tuple[float, int]:
        portfolio = library.Portfolio.from_signals(
            close, entries, exits, price=opening, fees=FEE, init_cash=CASH, freq=frequency
        )
        found, trades = portfolio.stats(), portfolio.trades.records
        return float(found["End Value"]), int((trades["status"] == 1).sum())

    return run


def backtesting(table: Table) -> Run:
    """Fill at the next open, its default."""
    import pandas as pd
    from backtesting import Backtest, Strategy

    index = pd.to_datetime(table["open_time_ms"], unit="ms")
    frame = pd.DataFrame({name.title(): table[name] * _UNITS for name in _COLUMNS[1:5]}, index)
    frame["Volume"], frame["entry"], frame["exit"] = table["volume"], *_crossings(table["target"])

    class Follow(Strategy):
        def init(self) -> None:
            self.entries, self.exits = self.data.entry, self.data.exit

        def next(self) -> None:
            if self.data.entry[-1] and not self.position:
                self.buy()
            elif self.data.exit[-1] and self.position:
                self.position.close()

    def run() -> tuple[float, int]:
        found = Backtest(frame, Follow, cash=CASH, commission=FEE).run()
        return float(found["Equity Final [$]"]), int(found["# Trades"])

    return run


_COLUMNS = ("open_time_ms", "open", "high", "low", "close", "volume")
_LIBRARIES = {one.__name__: one for one in (klinecast, raptorbt, vectorbt, backtesting)}


def _crossings(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the target goes up to 1 and where it comes down to 0; no decision keeps the last one."""
    places = np.maximum.accumulate(np.where(np.isnan(target), -1, np.arange(len(target))))
    held = np.where(places < 0, 0.0, target[np.maximum(places, 0)])
    before = np.append(0.0, held[:-1])
    return (held > 0) & (before == 0), (held == 0) & (before > 0)


def measure_parts(table: Table, times: int) -> dict[str, float]:
    """Return milliseconds of signals, simulation and statistics of this engine, and of reading and writing as much."""
    from klinecast.types import ExecutionModel, KlineColumns, Signals
    from services.backtest.engine import simulate
    from services.backtest.engine.statistics import compute_statistics
    from services.backtest.strategies import compute_signals

    klines, interval = KlineColumns(**{name: table[name] for name in _COLUMNS}), str(table["interval"])
    signals, execution = Signals(table["target"]), ExecutionModel(taker_fee_bps=FEE * 1e4)
    outcome = simulate(klines, signals, execution, CASH)
    read, into = np.stack([table[name] for name in ("open", "high", "low", "close", "target")]), np.empty(len(klines))
    return {
        "signals": _median_ms(lambda: compute_signals("dual_ma", {}, klines), times),
        "simulation": _median_ms(lambda: simulate(klines, signals, execution, CASH), times),
        "statistics": _median_ms(lambda: compute_statistics(outcome, klines, interval=interval), times),
        "bus": _median_ms(lambda: (np.max(read), np.copyto(into, read[0])), times),
    }


def _peak_mb(run: Run) -> float:
    """Return by how much a run lifts the resident memory of the process at its highest (5 = begin the mark anew)."""
    process = Path("/proc/self")

    def resident(name: str) -> int:
        return next(int(line.split()[1]) for line in (process / "status").read_text().splitlines() if name in line)

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left behind would hide what this one needs
    (process / "clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def _median_ms(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def main(library: str, file: str, times: int) -> None:
    """Measure a library over the klines of a file."""
    warnings.simplefilter("ignore")
    with np.load(file) as found:
        table = dict(found)
    run = _LIBRARIES[library](table)
    equity, trades = run()
    median = _median_ms(run, times)
    grown = _peak_mb(run)
    parts = measure_parts(table, times) if library == "klinecast" else {}
    print(json.dumps(asdict(Measured(median, equity, trades, grown, parts))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
