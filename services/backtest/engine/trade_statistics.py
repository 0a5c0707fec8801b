"""Statistics of closed trades, one function each; profits are net, in quote units. None = undefined."""

from __future__ import annotations

import math

import numpy as np

from klinecast.types import FloatColumn, KlineColumns
from services.backtest.engine import sums
from services.backtest.engine.outcome import Outcome
from services.backtest.engine.ratios import SMALLEST_DEVIATION, defined, standard_deviation
from services.backtest.engine.records import Record

DAY_MS = 86_400_000


def closed_trades(outcome: Outcome) -> Record:
    """Return the trades that have ended."""
    trades = outcome.trades
    return trades[:-1] if len(trades) and trades[-1]["exit_index"] < 0 else trades


def win_rate(profit: FloatColumn) -> float | None:
    """Share of trades with profit > 0."""
    return int(np.count_nonzero(profit > 0)) / len(profit) if len(profit) else None


def profit_factor(profit: FloatColumn) -> float | None:
    """Money won / money lost."""
    won, lost, _ = sums.gains_losses_downside(profit, 0.0)
    return defined(won / lost) if lost > 0 else None


def expectancy(profit: FloatColumn) -> float | None:
    """Mean profit of a trade, quote units."""
    return defined(sums.mean_and_squares(profit, 0.0)[0])


def average_win(profit: FloatColumn) -> float | None:
    """Mean profit of the trades with profit > 0, quote units."""
    won, _, _ = sums.gains_losses_downside(profit, 0.0)
    count = int(np.count_nonzero(profit > 0))
    return won / count if count else None


def average_loss(profit: FloatColumn) -> float | None:
    """Mean profit of the trades with profit < 0, quote units (negative)."""
    _, lost, _ = sums.gains_losses_downside(profit, 0.0)
    count = int(np.count_nonzero(profit < 0))
    return -lost / count if count else None


def largest_win(profit: FloatColumn) -> float | None:
    """Largest profit, quote units; None without a winner."""
    best = float(profit.max()) if len(profit) else 0.0
    return best if best > 0 else None


def largest_loss(profit: FloatColumn) -> float | None:
    """Largest loss, quote units (negative); None without a loser."""
    worst = float(profit.min()) if len(profit) else 0.0
    return worst if worst < 0 else None


def average_trade_duration(trades: Record, klines: KlineColumns, first_index: int = 0) -> float | None:
    """Mean time from the open_time of the entry kline to that of the exit kline, seconds.

    Of a continued run (first_index > 0) entries before its first kline count from that kline.
    """
    if not len(trades):
        return None
    entries = np.maximum(trades["entry_index"] - first_index, 0)
    times = klines.open_time_ms
    return int(np.sum(times[trades["exit_index"] - first_index] - times[entries])) / len(trades) / 1000


def sqn(profit: FloatColumn) -> float | None:
    """sqrt(n) * mean / std(ddof 1) of profit. Source: Tharp, system quality number."""
    deviation = standard_deviation(profit, 1)
    mean = sums.mean_and_squares(profit, 0.0)[0]
    return None if deviation is None else defined(math.sqrt(len(profit)) * mean / deviation)


def kelly(profit: FloatColumn) -> float | None:
    """W - (1 - W) / (average_win / |average_loss|), W the win rate: a share of equity. Source: Kelly (1956)."""
    rate, win, loss = win_rate(profit), average_win(profit), average_loss(profit)
    if rate is None or win is None or loss is None:
        return None
    return defined(rate - (1 - rate) / (win / abs(loss)))


def per_trade_sharpe(profit: FloatColumn, initial_cash: float, span_ms: int) -> float | None:
    """sum x / max(1, whole days) / std(x, ddof 0) * sqrt(365), x = profit / initial_cash. Source: freqtrade."""
    return _per_trade(profit, profit, initial_cash, span_ms)


def per_trade_sortino(profit: FloatColumn, initial_cash: float, span_ms: int) -> float | None:
    """As per_trade_sharpe with the deviation of the losers. Source: freqtrade."""
    return _per_trade(profit, profit[profit < 0], initial_cash, span_ms)


def _per_trade(profit: FloatColumn, spread: FloatColumn, initial_cash: float, span_ms: int) -> float | None:
    deviation = math.sqrt(sums.mean_and_squares(spread / initial_cash, 0.0)[1] / len(spread)) if len(spread) else 0.0
    if deviation < SMALLEST_DEVIATION:
        return None
    daily = float(np.sum(profit)) / initial_cash / max(1, span_ms // DAY_MS)
    return defined(daily / deviation * math.sqrt(365))
