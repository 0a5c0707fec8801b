"""compute_statistics: everything docs/execution.md counts, as name -> number; what is undefined is absent.

Fractions, quote units or seconds, never percent. A statistic is one function here, in ratios or in trade_statistics.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from klinecast.types import FloatColumn, Formula, KlineColumns, Sampling, StatisticsConvention, TimeColumn, as_column
from services.backtest.engine import ratios, sums
from services.backtest.engine import trade_statistics as trade
from services.backtest.engine.outcome import Outcome
from services.backtest.engine.portfolio import PortfolioOutcome
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
from services.backtest.engine.trade_statistics import (
    average_loss,
    average_win,
    expectancy,
    kelly,
    largest_loss,
    largest_win,
    profit_factor,
    sqn,
    win_rate,
)

__all__ = [
    "Curve",
    "StatisticsConvention",
    "alpha",
    "annual_volatility",
    "average_loss",
    "average_win",
    "beta",
    "buy_and_hold_return",
    "cagr",
    "calmar_ratio",
    "compute_portfolio_statistics",
    "compute_share_statistics",
    "compute_statistics",
    "expectancy",
    "expected_shortfall_95",
    "kelly",
    "largest_loss",
    "largest_win",
    "max_drawdown",
    "omega_ratio",
    "profit_factor",
    "sampled_returns",
    "sharpe_ratio",
    "sortino_ratio",
    "sqn",
    "tail_risk",
    "total_return",
    "turnover",
    "ulcer_index",
    "value_at_risk_95",
    "win_rate",
]

DAY_MS = 86_400_000
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS, "M": 2_629_746_000}


class Curve(NamedTuple):
    """What ratios are made of: equity at each close, and a price to compare with."""

    open_time_ms: TimeColumn
    equity: FloatColumn
    """Quote units."""
    initial_cash: float
    """Quote units."""
    prices: FloatColumn
    """Closes of what buy and hold holds."""
    first_price: float
    """Its price at the first open."""
    span_ms: int
    """Span of a kline."""
    end_ms: int
    """End of the last kline."""


def compute_statistics(
    outcome: Outcome,
    klines: KlineColumns,
    interval: str = "1h",
    convention: StatisticsConvention = StatisticsConvention(),  # noqa: B008 - frozen
) -> dict[str, float]:
    """Return every statistic of a run over its klines; ValueError where the outcome is not of these klines."""
    if len(outcome.equity) != len(klines):
        raise ValueError(f"klines: {len(klines)}, but the outcome has {len(outcome.equity)}")
    end_ms = last_close_ms(int(klines.open_time_ms[-1]), interval)
    curve = Curve(
        klines.open_time_ms, outcome.equity, outcome.initial_cash, klines.close, float(klines.open[0]),
        interval_ms(interval), end_ms,
    )  # fmt: skip
    in_market, mean_exposure, mean_equity = sums.exposure(
        outcome.equity, klines.close, outcome.fills, outcome.first_index, outcome.first_quantity
    )
    found = _of_equity(curve) | {
        "time_in_market": in_market,
        "exposure_mean": mean_exposure,
        "turnover": turnover(traded_notional(outcome), mean_equity),
    }
    return _with_ratios(found | _of_trades([outcome], [klines]), curve, [outcome], convention)


def compute_portfolio_statistics(
    portfolio: PortfolioOutcome,
    klines: Sequence[KlineColumns],
    interval: str = "1h",
    convention: StatisticsConvention = StatisticsConvention(),  # noqa: B008 - frozen
) -> dict[str, float]:
    """Return every statistic of several series together, on their common timeline.

    time_in_market is the share of instants with any position, exposure_mean of |position values| / equity; buy and hold
    gives each series an equal share; trades are those of all series.
    """
    end_ms = last_close_ms(int(portfolio.open_time_ms[-1]), interval)
    curve = Curve(
        portfolio.open_time_ms, portfolio.equity, portfolio.initial_cash, portfolio.held_index, 1.0,
        interval_ms(interval), end_ms,
    )  # fmt: skip
    alive = portfolio.equity > 0.0
    share = np.divide(portfolio.gross, portfolio.equity, out=np.zeros(len(portfolio.equity)), where=alive)
    notional = sum(traded_notional(one) for one in portfolio.outcomes)
    found = _of_equity(curve) | {
        "time_in_market": float(np.count_nonzero(portfolio.gross)) / len(portfolio.gross),
        "exposure_mean": sums.total(share) / len(share),
        "turnover": turnover(notional, sums.total(portfolio.equity) / len(portfolio.equity)),
    }
    return _with_ratios(found | _of_trades(portfolio.outcomes, klines), curve, portfolio.outcomes, convention)


def compute_share_statistics(outcome: Outcome, klines: KlineColumns) -> dict[str, float]:
    """Return what can be said of one series that shares its account: its trades, costs, and buy and hold."""
    found = _of_trades([outcome], [klines]) | {"buy_and_hold_return": buy_and_hold_return(klines)}
    return {name: value for name, value in found.items() if value is not None}


def total_return(final: float, initial: float) -> float:
    """final equity / initial_cash - 1."""
    return final / initial - 1.0


def ulcer_index(equity: FloatColumn, initial_cash: float) -> float:
    """sqrt(mean(drawdown^2)) per kline, initial_cash the first peak: a fraction. Source: Martin (1987)."""
    return math.sqrt(sums.drawdowns(np.zeros(len(equity), np.int64), as_column(equity), initial_cash, 0)[2])


def cagr(final: float, initial: float, span_ms: int) -> float | None:
    """(final / initial)^(365.25 days / span) - 1, a fraction a year."""
    return ratios.power(final / initial, 365.25 * DAY_MS / span_ms, less=1.0)


def calmar_ratio(yearly: float | None, largest_drawdown: float | None) -> float | None:
    """Yearly return / |max_drawdown|. Source: Young (1991)."""
    return None if yearly is None or not largest_drawdown else ratios.defined(yearly / abs(largest_drawdown))


def max_drawdown(equity: FloatColumn, initial_cash: float) -> float | None:
    """min(equity / running peak - 1), initial_cash the first peak: a fraction, never positive."""
    if not len(equity):
        return None
    return sums.drawdowns(np.zeros(len(equity), np.int64), as_column(equity), initial_cash, 0)[0]


def buy_and_hold_return(klines: KlineColumns) -> float:
    """last close / first open - 1, without costs."""
    return float(klines.close[-1] / klines.open[0]) - 1.0


def traded_notional(outcome: Outcome) -> float:
    """Sum of quantity * price over the fills, quote units."""
    return sums.dot(np.ascontiguousarray(outcome.fills["quantity"]), np.ascontiguousarray(outcome.fills["price"]))


def turnover(notional: float, mean_equity: float) -> float | None:
    """Sum of fill notionals / mean equity."""
    return ratios.defined(notional / mean_equity) if mean_equity > 0 else None


def interval_ms(interval: str) -> int:
    """Return the span of an interval, milliseconds; the mean Gregorian month for 1M."""
    try:
        return int(interval[:-1]) * _UNIT_MS[interval[-1]]
    except (KeyError, ValueError, IndexError):
        raise ValueError(f"interval: {interval!r} is unknown") from None


def last_close_ms(last: int, interval: str) -> int:
    """Return the instant a kline that opens at `last` ends, epoch milliseconds; a month ends where the next begins."""
    if interval != "1M":
        return last + interval_ms(interval)
    start = dt.datetime.fromtimestamp(last / 1000, dt.UTC)
    year, month = (start.year + 1, 1) if start.month == 12 else (start.year, start.month + 1)
    return int(dt.datetime(year, month, 1, tzinfo=dt.UTC).timestamp() * 1000)


def _of_equity(curve: Curve) -> dict[str, float | None]:
    final, initial, equity = float(curve.equity[-1]), curve.initial_cash, curve.equity
    largest, longest_ms, squared = sums.drawdowns(curve.open_time_ms, equity, initial, curve.span_ms)
    return {
        "total_return": total_return(final, initial),
        "cagr": cagr(final, initial, curve.end_ms - int(curve.open_time_ms[0])),
        "buy_and_hold_return": float(curve.prices[-1]) / curve.first_price - 1.0,
        "max_drawdown": largest,
        "max_drawdown_duration": longest_ms / 1000,
        "ulcer_index": math.sqrt(squared),
    }


def sampled_returns(curve: Curve, *, daily: bool) -> tuple[FloatColumn, FloatColumn]:
    """Return the returns of equity, and of the price beside it, from sample to sample: fractions.

    Samples are initial_cash at the first open_time, each 00:00 UTC after it (or each kline), and the end.
    """
    times = curve.open_time_ms
    size = (curve.end_ms - int(times[0])) // DAY_MS + 2 if daily else len(times)
    returns, benchmark = np.empty(size), np.empty(size)
    count = sums.sampled_returns(
        times, curve.equity, curve.prices, curve.initial_cash, curve.first_price, curve.span_ms, curve.end_ms,
        int(daily), returns, benchmark,
    )  # fmt: skip
    return returns[:count], benchmark[:count]


def _with_ratios(
    found: dict[str, float | None], curve: Curve, outcomes: Sequence[Outcome], convention: StatisticsConvention
) -> dict[str, float]:
    """Add the ratios of a convention, and leave out what is undefined."""
    found |= _of_returns(curve, convention)
    if convention.formula is Formula.PER_TRADE:
        profit = trade.profits_of([trade.closed_trades(one) for one in outcomes])
        whole = curve.end_ms - int(curve.open_time_ms[0])
        found["sharpe"] = trade.per_trade_sharpe(profit, curve.initial_cash, whole)
        found["sortino"] = trade.per_trade_sortino(profit, curve.initial_cash, whole)
    if convention.formula is not Formula.GEOMETRIC:
        found["calmar"] = calmar_ratio(found["cagr"], found["max_drawdown"])
    return {name: value for name, value in found.items() if value is not None}


def _of_returns(curve: Curve, convention: StatisticsConvention) -> dict[str, float | None]:
    daily = convention.sampling is Sampling.DAILY and curve.span_ms < DAY_MS
    returns, benchmark = sampled_returns(curve, daily=daily)
    p = convention.days_per_year * DAY_MS / (DAY_MS if daily else curve.span_ms)
    rate, ddof = convention.risk_free_rate, convention.ddof
    risk, joint = tail_risk(returns), ratios.Joint.of(returns, benchmark)
    found = {
        "omega": omega_ratio(returns),
        "value_at_risk_95": risk.value_at_risk,
        "expected_shortfall_95": risk.expected_shortfall,
        "beta": joint.beta,
        "alpha": joint.alpha(p, rate),
    }
    if convention.formula is Formula.GEOMETRIC:
        drawdown = max_drawdown(curve.equity, curve.initial_cash)
        returns = returns[1:]  # backtesting.py has no sample before the first close
        return found | {
            "sharpe": ratios.geometric_sharpe(returns, p, rate, ddof),
            "sortino": ratios.geometric_sortino(returns, p, rate),
            "annual_volatility": ratios.geometric_volatility(returns, p, ddof),
            "calmar": calmar_ratio(ratios.geometric_annual_return(returns, p), drawdown),
        }
    return found | {
        "sharpe": sharpe_ratio(returns, p, rate, ddof),
        "sortino": sortino_ratio(returns, p, rate),
        "annual_volatility": annual_volatility(returns, p, ddof=ddof),
    }


def _of_trades(outcomes: Sequence[Outcome], klines: Sequence[KlineColumns]) -> dict[str, float | None]:
    closed = [trade.closed_trades(one) for one in outcomes]
    profit = trade.profits_of(closed)
    still_open = [one.trades[-1] for one, ended in zip(outcomes, closed, strict=True) if len(one.trades) > len(ended)]
    held_ms = [
        sums.holding_ms(ended, one.open_time_ms, outcome.first_index)
        for ended, one, outcome in zip(closed, klines, outcomes, strict=True)
    ]
    return {
        "trade_count": float(len(profit.values)),
        "open_trade_count": float(len(still_open)),
        "open_profit": float(sum(one["profit"] for one in still_open)),
        "win_rate": win_rate(profit),
        "profit_factor": profit_factor(profit),
        "expectancy": expectancy(profit),
        "average_win": average_win(profit),
        "average_loss": average_loss(profit),
        "largest_win": largest_win(profit),
        "largest_loss": largest_loss(profit),
        "average_trade_duration": trade.average_trade_duration(sum(held_ms), len(profit.values)),
        "sqn": sqn(profit),
        "kelly": kelly(profit),
        "total_fees": sum(one.total_fees for one in outcomes),
        "total_slippage": sum(one.total_slippage for one in outcomes),
        "total_funding": sum(one.total_funding for one in outcomes),
    }
