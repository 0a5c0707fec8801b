"""Factories of klines and runs for the engine's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from services.backtest.engine import ExecutionModel, KlineColumns, Outcome, Signals, simulate

# Else hypothesis makes .hypothesis in the root, which pytest then warns about.
set_hypothesis_home_dir(tempfile.mkdtemp(prefix="klinecast-hypothesis-"))

HOUR_MS = 3_600_000
NAN = float("nan")


@pytest.fixture
def klines() -> Callable[..., KlineColumns]:
    """Return a maker of hourly klines: from closes alone, or from (open, high, low, close) rows."""

    def make(rows: Iterable[object], start_ms: int = 0, step_ms: int = HOUR_MS) -> KlineColumns:
        table = np.array([row if isinstance(row, tuple) else (row,) * 4 for row in rows], dtype=float).reshape(-1, 4)
        times = start_ms + step_ms * np.arange(len(table))
        return KlineColumns(times, *table.T, np.ones(len(table)))

    return make


@pytest.fixture
def run(klines: Callable[..., KlineColumns]) -> Callable[..., Outcome]:
    """Return a shortcut: rows, targets and execution fields (fees 0 unless given), cash 1,000."""

    def make(rows: Iterable[object], targets: Iterable[float], *, columns: dict[str, object] | None = None, **fields):
        cash = fields.pop("initial_cash", 1000.0)
        extra = {name: fields.pop(name) for name in ("funding", "finer", "interval_ms", "state") if name in fields}
        execution = ExecutionModel(**{"taker_fee_bps": 0.0, **fields})
        return simulate(
            klines(rows), Signals(np.array(list(targets), float), **(columns or {})), execution, cash, **extra
        )

    return make
