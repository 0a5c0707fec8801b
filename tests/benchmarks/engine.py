"""make bench-engine: a year of klines from memory to statistics and trades, beside the engines people use.

SMA 10/30, fee 0.1 %, filled at the next open, all-in. Every engine is given the same klines and decisions, runs in a
process of its own, and has to agree on the final equity and on the number of trades.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from klinecast.types import KlineColumns
from services.backtest.strategies import compute_signals
from tests.benchmarks.bench import Row, publish
from tests.benchmarks.engine_runs import Measured

YARDSTICKS = ("raptorbt", "vectorbt", "backtesting")
START_MS, HOUR_MS, MINUTE_MS = 1_704_067_200_000, 3_600_000, 60_000
YEARS = {"1h": (8_760, HOUR_MS, 0.005), "1m": (525_600, MINUTE_MS, 0.0007)}
"""Klines, their span, the deviation of a kline's return."""
TIMES = {("klinecast", "1h"): 200, ("raptorbt", "1h"): 200, ("backtesting", "1m"): 3}
"""Runs of which the median is taken, where it is not 40."""


def main() -> None:
    """Measure and publish."""
    rows: list[Row] = []
    for interval in YEARS:
        rows += measure_year(interval)
    publish("bench-engine", rows)


def measure_year(interval: str) -> list[Row]:
    """Compare the engines over a year of klines of an interval."""
    count, _, _ = YEARS[interval]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "klines.npz"
        np.savez(file, **make_table(interval))
        found = {name: _run(name, file, TIMES.get((name, interval), 40)) for name in ("klinecast", *YARDSTICKS)}
    ours = found["klinecast"]
    for name in YARDSTICKS:
        _require_agreement(name, found[name], ours)
    fastest = min(YARDSTICKS, key=lambda name: found[name].milliseconds)
    best = found[fastest].milliseconds
    rows = [Row(f"year_{interval}_ms", ours.milliseconds, "ms", f"{fastest} {best:.2f} ms", best / ours.milliseconds)]
    for name in YARDSTICKS:
        taken = found[name].milliseconds
        rows.append(Row(f"{name}_{interval}_ms", taken, "ms", f"{ours.trades} trades", taken / ours.milliseconds))
    for name in ("signals", "simulation", "statistics"):
        share = ours.parts_ms[name] / ours.parts_ms["bus"]
        yardstick = f"times the bus: {1e6 * ours.parts_ms['bus'] / count:.2f} ns to read prices, write equity"
        rows.append(Row(f"{name}_{interval}_ns", 1e6 * ours.parts_ms[name] / count, "ns", yardstick, share))
    for name in ("klinecast", *YARDSTICKS):
        rows.append(
            Row(
                f"{name}_{interval}_mb", found[name].peak_mb, "MB", "what a run adds to the memory at its highest", None
            )
        )
    return rows


def make_table(interval: str) -> dict[str, np.ndarray]:
    """Return klines of a random walk and the decisions of dual_ma 10/30 on them."""
    count, span_ms, deviation = YEARS[interval]
    random = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(random.normal(0, deviation, count)))
    opening = np.append(100.0, close[:-1]) * (1 + random.normal(0, deviation / 10, count))
    high, low = np.maximum(opening, close) * 1.001, np.minimum(opening, close) * 0.999
    times = START_MS + span_ms * np.arange(count)
    klines = KlineColumns(times, opening, high, low, close, np.ones(count))
    target = compute_signals("dual_ma", {"fast": 10, "slow": 30}, klines).target_exposure
    names = ("open_time_ms", "open", "high", "low", "close", "volume")
    return {name: getattr(klines, name) for name in names} | {"target": target, "interval": np.array(interval)}


def _run(library: str, file: Path, times: int) -> Measured:
    print(f"{library}, {file.stat().st_size / 1e6:.1f} MB of klines, {times} times", flush=True)
    command = [sys.executable, "-m", "tests.benchmarks.engine_runs", library, str(file), str(times)]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _require_agreement(name: str, theirs: Measured, ours: Measured) -> None:
    same = math.isclose(theirs.final_equity, ours.final_equity, rel_tol=1e-6) and theirs.trades == ours.trades
    if not same:
        raise SystemExit(
            f"{name} ends with {theirs.final_equity} after {theirs.trades} trades, "
            f"klinecast with {ours.final_equity} after {ours.trades}"
        )


if __name__ == "__main__":
    main()
