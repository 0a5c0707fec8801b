"""Reads a result through the SDK and writes its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from klinecast.client import Client, Result, SeriesResult
from klinecast.report import ReportData, render_report
from klinecast.types import FillReason

EXIT_REASONS = {0: "open"} | {reason + 1: reason.name.lower().replace("_", " ") for reason in FillReason}
"""By the number in the contract."""


def write_report(client: Client, result: Result, path: Path) -> None:
    """Write one self-contained HTML file."""
    equity = client.load_equity(result.result_id)
    trades = dict(client.load_trades(result.result_id))
    trades["exit_reason"] = np.array([EXIT_REASONS[int(one)] for one in trades["exit_reason"]])
    if result.series_results:
        trades["series"] = np.array([one.series.symbol for one in result.series_results])[trades["series"]]
    else:
        del trades["series"]
    stop_first, target_first = result.total_return_bounds
    data = ReportData(
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
        open_time_ms=equity["open_time_ms"],
        close=equity["close"],
        equity=equity["equity"],
        trades=trades,
        each_series={str(one.series): with_profit(one) for one in result.series_results},
        execution=result.execution,
        honesty={
            "ambiguous_klines": result.ambiguous_klines,
            "resolved_klines": result.resolved_klines,
            "total_return_stop_first": stop_first,
            "total_return_target_first": target_first,
            "gaps_crossed": result.gap_count,
            "klines_missing": result.missing_count,
            "pending_target": result.pending_target,
            "total_fees": result.statistics.get("total_fees"),
            "total_slippage": result.statistics.get("total_slippage"),
            "total_funding": result.statistics.get("total_funding"),
            "open_position": dict(result.open_position) if result.open_position else "none",
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(data), encoding="utf-8")


def with_profit(one: SeriesResult) -> dict[str, float]:
    """Return the statistics of a series and its profit, open trades included, which a shared account has, too."""
    found = dict(one.statistics)
    closed = found.get("expectancy", 0.0) * found.get("trade_count", 0.0)
    return found | {"profit": closed + found.get("open_profit", 0.0)}
