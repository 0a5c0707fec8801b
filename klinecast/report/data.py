"""What a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Honesty:
    """What flatters a result or could, besides its execution model; costs are in the statistics."""

    ambiguous_klines: int
    resolved_klines: int
    total_return_stop_first: float
    total_return_target_first: float
    gaps_crossed: int
    klines_missing: int
    open_positions: Mapping[str, Mapping[str, float]]
    """quantity, entry_price and profit by series; empty when flat."""
    pending_targets: Mapping[str, float]
    """Last decision by series, where it came too late to fill."""


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
    trades: Mapping[str, Column]
    """Columns entry_time_ms, exit_time_ms (-1 = open), side, quantity, entry_price, exit_price, profit, fees and
    exit_reason (text); series (text), too, where there are several."""
    execution: Mapping[str, object]
    each_series: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Statistics of each series by its name, where there are several; close is then what equal shares became."""
    honesty: Honesty


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedResult:
    """One result among others; columns are of one length, empty when equity was not kept."""

    label: str
    """Strategy and short id; tells the result from the others."""
    series: str
    start_ms: int
    end_ms: int
    initial_cash: float
    statistics: Mapping[str, float]
    """Absent ones are undefined."""
    open_time_ms: NDArray[np.int64]
    equity: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonData:
    """Two to eight results side by side."""

    results: Sequence[ComparedResult]
    differences: Mapping[str, Sequence[str]]
    """Where the configs differ: a path like params.fast, and a text of each result, empty where it has none."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.results) <= 8:
            raise ValueError(f"2 to 8 results can be compared, not {len(self.results)}")
        for path, texts in self.differences.items():
            if len(texts) != len(self.results):
                raise ValueError(f"differences[{path!r}] has {len(texts)} texts for {len(self.results)} results")
