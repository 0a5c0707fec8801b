"""From a result and its columns, as the SDK returns them, to what a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from klinecast.columns import Column
from klinecast.models import Result, SeriesResult
from klinecast.report.data import ComparedResult, Honesty, ReportData
from klinecast.types import FillReason

EXIT_REASONS = {0: "open"} | {int(reason): reason.name.lower().replace("_", " ") for reason in FillReason}
"""By the number in the columns of trades."""

_TRADES = {"entry_time_ms": "i8", "exit_time_ms": "i8", "side": "i8"} | dict.fromkeys(
    ("quantity", "entry_price", "exit_price", "profit", "fees"), "f8"
)


def report_data(result: Result, equity: Mapping[str, Column], trades: Mapping[str, Column]) -> ReportData:
    """Gather what the report of one result shows; columns that are absent count as empty."""
    return ReportData(
        backtest_id=result.result_id,
        strategy=result.strategy,
        strategy_version=result.strategy_version,
        params=result.params,
        series=result.series,
        start_ms=result.start_ms,
        end_ms=result.end_ms,
        initial_cash=result.initial_cash,
        final_equity=result.final_equity,
        statistics=result.statistics,
        open_time_ms=_column(equity, "open_time_ms", "i8"),
        close=_column(equity, "close", "f8"),
        equity=_column(equity, "equity", "f8"),
        trades=_trades(result, trades),
        execution=result.execution,
        each_series={str(one.series): with_profit(one) for one in result.series_results},
        honesty=_honesty(result),
    )


def compared_result(result: Result, equity: Mapping[str, Column]) -> ComparedResult:
    """Gather what a comparison shows of one result."""
    return ComparedResult(
        label=f"{result.strategy} {result.result_id[:8]}",
        series=result.series,
        start_ms=result.start_ms,
        end_ms=result.end_ms,
        initial_cash=result.initial_cash,
        statistics=result.statistics,
        open_time_ms=_column(equity, "open_time_ms", "i8"),
        equity=_column(equity, "equity", "f8"),
    )


def with_profit(one: SeriesResult) -> dict[str, float]:
    """Return the statistics of a series and its profit, open trades included, which a shared account has, too."""
    found = dict(one.statistics)
    closed = found.get("expectancy", 0.0) * found.get("trade_count", 0.0)
    return found | {"profit": closed + found.get("open_profit", 0.0)}


def _trades(result: Result, trades: Mapping[str, Column]) -> dict[str, Column]:
    columns = {name: _column(trades, name, dtype) for name, dtype in _TRADES.items()}
    reasons, numbers = np.unique(_column(trades, "exit_reason", "i8"), return_inverse=True)
    names = [EXIT_REASONS.get(reason, f"reason {reason}") for reason in reasons.tolist()]
    columns["exit_reason"] = _looked_up(names, numbers)
    if result.series_results:
        symbols = [one.series.symbol for one in result.series_results]
        columns["series"] = _looked_up(symbols, _column(trades, "series", "i8"))
    return columns


def _looked_up(texts: Sequence[str], numbers: Column) -> Column:
    return np.array(texts, dtype=object)[numbers]  # objects: a million texts are a million references


def _column(columns: Mapping[str, Column], name: str, dtype: str) -> Column:
    return np.asarray(columns.get(name, ()), dtype=dtype)


def _honesty(result: Result) -> Honesty:
    stop_first, target_first = result.total_return_bounds
    # Of one series the result says how it ended; of several, each of them does.
    ends: list[tuple[str, Result | SeriesResult]] = [(result.series, result)]
    ends += [(str(one.series), one) for one in result.series_results]
    return Honesty(
        ambiguous_klines=result.ambiguous_klines,
        resolved_klines=result.resolved_klines,
        total_return_stop_first=stop_first,
        total_return_target_first=target_first,
        gaps_crossed=result.gap_count,
        klines_missing=result.missing_count,
        open_positions={name: one.open_position for name, one in ends if one.open_position},
        pending_targets={name: one.pending_target for name, one in ends if one.pending_target is not None},
    )
