"""compute_statistics: everything docs/execution.md counts, as name -> number; what is undefined is absent.

Fractions, quote units or seconds, never percent. A statistic is one function here, in ratios or in trade_statistics.
"""

from __future__ import annotations

import datetime as dt
import math

import numpy as np

from klinecast.types import FloatColumn, Formula, KlineColumns, Sampling, StatisticsConvention
from services.backtest.engine import ratios, sums
from services.backtest.engine import trade_statistics as trade
from services.backtest.engine.outcome import Outcome
from services.backtest.engine.ratios import (
    alpha,
    annual_volatility,
    beta,
    expected_shortfall_95,
    omega_ratio,
    sharpe_ratio,
    sortino_ratio,
    tail_risk,
    value_at_risk_95,
)

__all__ = [
    "StatisticsConvention",
    "alpha",
    "annual_volatility",
    "beta",
    "cagr",
    "calmar_ratio",
    "compute_statistics",
    "expected_shortfall_95",
    "max_drawdown",
    "omega_ratio",
    "sharpe_ratio",
    "sortino_ratio",
    "tail_risk",
    "value_at_risk_95",
]

DAY_MS = 86_400_000
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS, "M": 2_629_746_000}


def compute_statistics(
    outcome: Outcome,
    klines: KlineColumns,
    interval: str = "1h",
    convention: StatisticsConvention = StatisticsConvention(),  # noqa: B008 - frozen
) -> dict[str, float]:
    """Return every statistic of a run over its klines; ValueError where the outcome is not of these klines."""
    if len(outcome.equity) != len(klines):
        raise ValueError(f"klines: {len(klines)}, but the outcome has {len(outcome.equity)}")
    span_ms = interval_ms(interval)
    end_ms = last_close_ms(klines, interval)
    found = _of_equity(outcome, klines, span_ms, end_ms)
    found |= _of_returns(outcome, klines, span_ms, end_ms, convention)
    found |= _of_trades(outcome, klines)
    if convention.formula is Formula.PER_TRADE:
        profit = trade.profits_of(trade.closed_trades(outcome))
        whole = end_ms - int(klines.open_time_ms[0])
        found["sharpe"] = trade.per_trade_sharpe(profit, outcome.initial_cash, whole)
        found["sortino"] = trade.per_trade_sortino(profit, outcome.initial_cash, whole)
    if convention.formula is not Formula.GEOMETRIC:
        found["calmar"] = calmar_ratio(found["cagr"], found["max_drawdown"])
    return {name: value for name, value in found.items() if value is not None}


def total_return(outcome: Outcome) -> float:
    """final equity / initial_cash - 1."""
    return float(outcome.equity[-1]) / outcome.initial_cash - 1.0


def cagr(final: float, initial: float, span_ms: int) -> float | None:
    """(final / initial)^(365.25 days / span) - 1, a fraction a year."""
    return ratios.power(final / initial, 365.25 * DAY_MS / span_ms, less=1.0)


def calmar_ratio(yearly: float | None, largest_drawdown: float | None) -> float | None:
    """Yearly return / |max_drawdown|. Source: Young (1991)."""
    return None if yearly is None or not largest_drawdown else ratios.defined(yearly / abs(largest_drawdown))


def max_drawdown(equity: FloatColumn, initial_cash: float) -> float:
    """min(equity / running peak - 1), initial_cash the first peak: a fraction, never positive."""
    return sums.drawdowns(np.zeros(len(equity), np.int64), equity, initial_cash, 0)[0]


def buy_and_hold_return(klines: KlineColumns) -> float:
    """last close / first open - 1, without costs."""
    return float(klines.close[-1] / klines.open[0]) - 1.0


def turnover(outcome: Outcome, mean_equity: float) -> float | None:
    """Sum of fill notionals / mean equity."""
    quantity, price = np.ascontiguousarray(outcome.fills["quantity"]), np.ascontiguousarray(outcome.fills["price"])
    return ratios.defined(sums.dot(quantity, price) / mean_equity) if mean_equity > 0 else None


def interval_ms(interval: str) -> int:
    """Return the span of an interval, milliseconds; the mean Gregorian month for 1M."""
    try:
        return int(interval[:-1]) * _UNIT_MS[interval[-1]]
    except (KeyError, ValueError, IndexError):
        raise ValueError(f"interval: {interval!r} is unknown") from None


def last_close_ms(klines: KlineColumns, interval: str) -> int:
    """Return the instant the last kline ends, epoch milliseconds; a month ends where the next begins."""
    last = int(klines.open_time_ms[-1])
    if interval != "1M":
        return last + interval_ms(interval)
    start = dt.datetime.fromtimestamp(last / 1000, dt.UTC)
    year, month = (start.year + 1, 1) if start.month == 12 else (start.year, start.month + 1)
    return int(dt.datetime(year, month, 1, tzinfo=dt.UTC).timestamp() * 1000)


def _of_equity(outcome: Outcome, klines: KlineColumns, span_ms: int, end_ms: int) -> dict[str, float | None]:
    final, initial = float(outcome.equity[-1]), outcome.initial_cash
    largest, longest_ms, squared = sums.drawdowns(klines.open_time_ms, outcome.equity, initial, span_ms)
    in_market, mean_exposure, mean_equity = sums.exposure(
        outcome.equity, klines.close, outcome.fills, outcome.first_index, outcome.first_quantity
    )
    return {
        "total_return": total_return(outcome),
        "cagr": cagr(final, initial, end_ms - int(klines.open_time_ms[0])),
        "buy_and_hold_return": buy_and_hold_return(klines),
        "max_drawdown": largest,
        "max_drawdown_duration": longest_ms / 1000,
        "ulcer_index": math.sqrt(squared),
        "time_in_market": in_market,
        "exposure_mean": mean_exposure,
        "turnover": turnover(outcome, mean_equity),
        "total_fees": outcome.total_fees,
        "total_slippage": outcome.total_slippage,
        "total_funding": outcome.total_funding,
    }


def sampled_returns(
    outcome: Outcome, klines: KlineColumns, span_ms: int, end_ms: int, *, daily: bool
) -> tuple[FloatColumn, FloatColumn]:
    """Return the returns of equity, and of the price beside it, from sample to sample: fractions.

    Samples are initial_cash at the first open_time, each 00:00 UTC after it (or each kline), and the end.
    """
    size = (end_ms - int(klines.open_time_ms[0])) // DAY_MS + 2 if daily else len(klines)
    returns, benchmark = np.empty(size), np.empty(size)
    count = sums.sampled_returns(
        klines.open_time_ms, outcome.equity, klines.close, outcome.initial_cash, float(klines.open[0]),
        span_ms, end_ms, int(daily), returns, benchmark,
    )  # fmt: skip
    return returns[:count], benchmark[:count]


def _of_returns(
    outcome: Outcome, klines: KlineColumns, span_ms: int, end_ms: int, convention: StatisticsConvention
) -> dict[str, float | None]:
    daily = convention.sampling is Sampling.DAILY and span_ms < DAY_MS
    returns, benchmark = sampled_returns(outcome, klines, span_ms, end_ms, daily=daily)
    p = convention.days_per_year * DAY_MS / (DAY_MS if daily else span_ms)
    rate, ddof = convention.risk_free_rate, convention.ddof
    risk = tail_risk(returns)
    found = {
        "omega": omega_ratio(returns),
        "value_at_risk_95": risk.value_at_risk,
        "expected_shortfall_95": risk.expected_shortfall,
        "beta": beta(returns, benchmark),
        "alpha": alpha(returns, benchmark, p, rate),
    }
    if convention.formula is Formula.GEOMETRIC:
        drawdown = max_drawdown(outcome.equity, outcome.initial_cash)
        return found | {
            "sharpe": ratios.geometric_sharpe(returns, p, rate, ddof),
            "sortino": ratios.geometric_sortino(returns, p, rate),
            "annual_volatility": ratios.geometric_volatility(returns, p, ddof),
            "calmar": calmar_ratio(ratios.geometric_annual_return(returns, p), drawdown),
        }
    return found | {
        "sharpe": sharpe_ratio(returns, p, rate, ddof),
        "sortino": sortino_ratio(returns, p, rate),
        "annual_volatility": annual_volatility(returns, p, ddof),
    }


def _of_trades(outcome: Outcome, klines: KlineColumns) -> dict[str, float | None]:
    closed = trade.closed_trades(outcome)
    profit = trade.profits_of(closed)
    open_rows = outcome.trades[len(closed) :]
    return {
        "trade_count": float(len(closed)),
        "open_trade_count": float(len(open_rows)),
        "open_profit": float(open_rows[0]["profit"]) if len(open_rows) else 0.0,
        "win_rate": trade.win_rate(profit),
        "profit_factor": trade.profit_factor(profit),
        "expectancy": trade.expectancy(profit),
        "average_win": trade.average_win(profit),
        "average_loss": trade.average_loss(profit),
        "largest_win": trade.largest_win(profit),
        "largest_loss": trade.largest_loss(profit),
        "average_trade_duration": trade.average_trade_duration(closed, klines, outcome.first_index),
        "sqn": trade.sqn(profit),
        "kelly": trade.kelly(profit),
    }
