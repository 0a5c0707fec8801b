"""Statistics of closed trades, one function each; profits are net, in quote units. None = undefined.

A function takes the profits, or their sums where several statistics of the same trades are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from klinecast.types import FloatColumn, as_column
from services.backtest.engine import sums
from services.backtest.engine.outcome import Outcome
from services.backtest.engine.ratios import SMALLEST_DEVIATION, defined, deviation_of
from services.backtest.engine.records import Record

DAY_MS = 86_400_000


class Profits(NamedTuple):
    """Winners and losers of closed trades, summed once for all that is counted of them."""

    values: FloatColumn
    """Net profit of each trade, quote units."""
    wins: float
    """How many have a profit above 0."""
    won: float
    """Sum of those, quote units."""
    largest: float
    """The largest, 0 where there is none."""
    losses: float
    """How many have a profit below 0."""
    lost: float
    """Sum of those, quote units (negative)."""
    smallest: float
    """The smallest, 0 where there is none."""


def _summed(profit: Profits | ArrayLike) -> Profits:
    if isinstance(profit, Profits):
        return profit
    values = as_column(profit)
    return Profits(values, *sums.wins_and_losses(values))


def closed_trades(outcome: Outcome) -> Record:
    """Return the trades that have ended."""
    trades = outcome.trades
    return trades[:-1] if len(trades) and trades[-1]["exit_index"] < 0 else trades


def profits_of(closed: Sequence[Record]) -> Profits:
    """Sum the profits of the closed trades of one series or several."""
    values = np.concatenate([one["profit"] for one in closed])
    return Profits(values, *sums.wins_and_losses(values))


def win_rate(profit: Profits | ArrayLike) -> float | None:
    """Share of trades with profit > 0."""
    profit = _summed(profit)
    return profit.wins / len(profit.values) if len(profit.values) else None


def profit_factor(profit: Profits | ArrayLike) -> float | None:
    """Money won / money lost."""
    profit = _summed(profit)
    return defined(profit.won / -profit.lost) if profit.lost < 0 else None


def expectancy(profit: Profits | ArrayLike) -> float | None:
    """Mean profit of a trade, quote units."""
    profit = _summed(profit)
    return defined(sums.moments(profit.values, 0.0)[1])


def average_win(profit: Profits | ArrayLike) -> float | None:
    """Mean profit of the trades with profit > 0, quote units."""
    profit = _summed(profit)
    return profit.won / profit.wins if profit.wins else None


def average_loss(profit: Profits | ArrayLike) -> float | None:
    """Mean profit of the trades with profit < 0, quote units (negative)."""
    profit = _summed(profit)
    return profit.lost / profit.losses if profit.losses else None


def largest_win(profit: Profits | ArrayLike) -> float | None:
    """Largest profit, quote units; None without a winner."""
    profit = _summed(profit)
    return profit.largest if profit.wins else None


def largest_loss(profit: Profits | ArrayLike) -> float | None:
    """Largest loss, quote units (negative); None without a loser."""
    profit = _summed(profit)
    return profit.smallest if profit.losses else None


def average_trade_duration(held_ms: float, count: int) -> float | None:
    """Mean time from the open_time of the entry kline to that of the exit kline, seconds.

    held_ms: the sum of these times; of a continued run, entries before its first kline count from that kline.
    """
    return held_ms / count / 1000 if count else None


def sqn(profit: Profits | ArrayLike) -> float | None:
    """sqrt(n) * mean / std(ddof 1) of profit. Source: Tharp, system quality number."""
    profit = _summed(profit)
    count, mean, squares = sums.moments(profit.values, 0.0)
    deviation = deviation_of(count, squares, 1)
    return None if deviation is None else defined(math.sqrt(count) * mean / deviation)


def kelly(profit: Profits | ArrayLike) -> float | None:
    """W - (1 - W) / (average_win / |average_loss|), W the win rate: a share of equity. Source: Kelly (1956)."""
    profit = _summed(profit)
    rate, win, loss = win_rate(profit), average_win(profit), average_loss(profit)
    if rate is None or win is None or loss is None:
        return None
    return defined(rate - (1 - rate) / (win / abs(loss)))


def per_trade_sharpe(profit: Profits, initial_cash: float, span_ms: int) -> float | None:
    """sum x / max(1, whole days) / std(x, ddof 0) * sqrt(365), x = profit / initial_cash. Source: freqtrade."""
    return _per_trade(profit.values, profit.values, initial_cash, span_ms)


def per_trade_sortino(profit: Profits, initial_cash: float, span_ms: int) -> float | None:
    """As per_trade_sharpe with the deviation of the losers. Source: freqtrade."""
    return _per_trade(profit.values, profit.values[profit.values < 0], initial_cash, span_ms)


def _per_trade(profit: FloatColumn, spread: FloatColumn, initial_cash: float, span_ms: int) -> float | None:
    deviation = math.sqrt(sums.moments(spread / initial_cash, 0.0)[2] / len(spread)) if len(spread) else 0.0
    if deviation < SMALLEST_DEVIATION:
        return None
    daily = float(np.sum(profit)) / initial_cash / max(1, span_ms // DAY_MS)
    return defined(daily / deviation * math.sqrt(365))
