"""The engine against an independent loop in plain Python, on real klines."""

from __future__ import annotations

import csv
import gzip
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from klinecast.types import ExecutionModel, KlineColumns
from services.backtest.engine import simulate
from services.backtest.strategies import compute_signals

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data"
FILE = DATA / "spot" / "1h" / "BTCUSDT-1h-2022-01_2026-04.csv.gz"


@pytest.fixture(scope="module")
def rows() -> list[tuple[int, float, float, float, float]]:
    """Return (open_time_ms, open, high, low, close) of real klines."""
    if not FILE.exists():
        pytest.skip(f"real klines are not here: {FILE.name} is kept beside the repository, not in it")
    with gzip.open(FILE, "rt") as file:
        return [
            (int(r["open_time"]), *(float(r[p]) for p in ("open", "high", "low", "close")))
            for r in csv.DictReader(file)
        ]


def reference(rows, fast: int, slow: int, fee: float, cash: float) -> tuple[list[float], list[tuple[int, int, float]]]:
    """Buy all-in while the fast mean is above the slow one, decided at the close, filled at the next open."""
    closes = [Fraction(row[4]) for row in rows]
    fast_sum = slow_sum = Fraction(0)
    quantity, holding, wanted = 0.0, False, False
    equity, fills = [], []
    for i, (_, opening, _, _, close) in enumerate(rows):
        if wanted and not holding:
            quantity = cash / (opening * (1 + fee))
            cash, holding = 0.0, True
            fills.append((i, 1, opening))
        elif holding and not wanted:
            cash, quantity, holding = quantity * opening * (1 - fee), 0.0, False
            fills.append((i, -1, opening))
        equity.append(cash + quantity * close)
        fast_sum += closes[i] - (closes[i - fast] if i >= fast else 0)
        slow_sum += closes[i] - (closes[i - slow] if i >= slow else 0)
        if i >= slow - 1 and fast_sum / fast != slow_sum / slow:
            wanted = fast_sum / fast > slow_sum / slow
    return equity, fills


def test_dual_ma_on_real_klines_equals_a_plain_python_loop(rows):
    table = np.array(rows)
    klines = KlineColumns(table[:, 0].astype(np.int64), *table[:, 1:].T, np.zeros(len(table)))
    signals = compute_signals("dual_ma", {"fast": 10, "slow": 30}, klines)
    outcome = simulate(klines, signals, ExecutionModel(taker_fee_bps=10), 10_000.0)
    equity, fills = reference(rows, 10, 30, 0.001, 10_000.0)
    assert len(fills) > 1000
    assert [(f["kline_index"], f["side"], f["price"]) for f in outcome.fills] == fills
    assert np.allclose(outcome.equity, equity, rtol=1e-9, atol=0)
    assert math.isclose(outcome.equity[-1] - 10_000, outcome.trades["profit"].sum(), rel_tol=1e-9)
