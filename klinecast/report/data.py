"""What a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """One result; columns of equity are of one length, empty when equity was not kept."""

    backtest_id: str
    strategy: str
    strategy_version: str
    params: Mapping[str, object]
    series: str
    """For people, for example BINANCE SPOT BTCUSDT 1h."""
    start_ms: int
    end_ms: int
    initial_cash: float
    final_equity: float
    statistics: Mapping[str, float]
    """Absent ones are undefined."""
    open_time_ms: NDArray[np.int64]
    close: NDArray[np.float64]
    equity: NDArray[np.float64]
    trades: Mapping[str, NDArray[Any]]
    """Columns entry_time_ms, exit_time_ms (-1 = open), side, quantity, entry_price, exit_price, profit, fees and
    exit_reason (text); series (text), too, where there are several."""
    execution: Mapping[str, object]
    each_series: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Statistics of each series by its name, where there are several; close is then what equal shares became."""
    honesty: Mapping[str, object]
    """What flatters the result or could: ambiguous klines, gaps crossed, costs paid."""
