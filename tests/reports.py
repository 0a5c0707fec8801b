"""Results made of random walks, for tests of the report: no service runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from klinecast.columns import Column
from klinecast.interval import Interval
from klinecast.models import Result, SeriesResult
from klinecast.series import SeriesKey
from klinecast.types import ExecutionModel, MarketType

HOUR_MS = 3_600_000
START_MS = 1_735_689_600_000  # 2025-01-01
CASH = 10_000.0


def make_equity(rows: int = 8_760, *, seed: int = 7, step_ms: int = HOUR_MS) -> dict[str, Column]:
    """Return equity per kline, and a close beside it."""
    random = np.random.default_rng(seed)
    close = 60_000 * np.exp(np.cumsum(random.normal(0.00002, 0.006, rows)))
    equity = CASH * np.exp(np.cumsum(random.normal(0.00003, 0.004, rows)))
    return {"open_time_ms": START_MS + step_ms * np.arange(rows), "equity": equity, "close": close}


def make_averages(rows: int = 8_760, *, seed: int = 7, fast: int = 24, slow: int = 96) -> tuple[dict[str, Column], ...]:
    """Return equity and trades of a crossing of averages, long and short, with a fee of 0.1 % a side."""
    columns = make_equity(rows, seed=seed)
    close = columns["close"]
    above = _average(close, fast) > _average(close, slow)
    turns = np.flatnonzero(above[1:] != above[:-1]) + 1
    turns = turns[turns > slow]
    ends = np.append(turns[1:], rows - 1)
    equity, cash, trades = np.full(rows, CASH), CASH, []
    for entry, exit_ in zip(turns.tolist(), ends.tolist(), strict=True):
        side, quantity = (1 if above[entry] else -1), cash / close[entry]
        fees = 0.001 * quantity * (close[entry] + close[exit_])
        equity[entry:] = cash + side * quantity * (close[entry:] - close[entry]) - fees
        profit = equity[exit_] - cash
        cash += profit
        trades.append((entry, exit_, side, quantity, close[entry], close[exit_], profit, fees))
    return columns | {"equity": equity}, _columns(trades, columns["open_time_ms"])


def make_trades(rows: int, *, seed: int = 7, series: int = 1) -> dict[str, Column]:
    """Return closed trades an hour apart."""
    random = np.random.default_rng(seed)
    price = random.uniform(50_000, 70_000, rows)
    profit = random.normal(1.0, 30.0, rows)
    entry = START_MS + HOUR_MS * np.arange(rows)
    return {
        "entry_time_ms": entry,
        "exit_time_ms": entry + HOUR_MS,
        "side": np.where(random.random(rows) > 0.5, 1, -1),
        "quantity": np.full(rows, 0.15),
        "entry_price": price,
        "exit_price": price + profit,
        "profit": profit,
        "fees": np.full(rows, 1.5),
        "exit_reason": random.integers(1, 7, rows),
        "series": random.integers(0, series, rows),
    }


def make_result(equity: Mapping[str, Column], trades: Mapping[str, Column], **changes: object) -> Result:
    """Return the header of a result that nothing flatters."""
    values: dict[str, object] = {
        "result_id": "0197f3a2-5c1e-7d40-9b8e-2f6a1c0d4e55",
        "strategy": "dual_ma",
        "strategy_version": "1",
        "params": {"fast": 24, "slow": 96, "average": "sma", "direction": "long_short"},
        "series": "BINANCE LINEAR_PERPETUAL BTCUSDT 1h",
        "start_ms": START_MS,
        "end_ms": START_MS + HOUR_MS * len(equity["equity"]),
        "labels": {},
        "klines": len(equity["equity"]),
        "initial_cash": CASH,
        "final_equity": float(equity["equity"][-1]) if len(equity["equity"]) else CASH,
        "open_position": None,
        "statistics": make_statistics(equity, trades),
        "execution": ExecutionModel(market_type=MarketType.LINEAR_PERPETUAL, slippage_bps=2.0).to_dict(),
        "pending_target": None,
        "ambiguous_klines": 0,
        "resolved_klines": 0,
        "total_return_bounds": (0.1, 0.1),
        "gap_count": 0,
        "missing_count": 0,
        "gaps": (),
        "series_results": (),
        "source_interval": Interval("1h"),
        "klines_read": len(equity["equity"]),
        "continued_from": "",
        "trade_rows": len(trades["profit"]),
        "fill_rows": 2 * len(trades["profit"]),
        "equity_rows": len(equity["equity"]),
        "create_time_ms": START_MS,
        "expire_time_ms": None,
        "pinned": True,
        "stored_bytes": 1,
        "last_read_time_ms": START_MS,
    }
    return Result(**(values | changes))  # type: ignore[arg-type]


def make_series_results(symbols: tuple[str, ...], statistics: Mapping[str, float]) -> tuple[SeriesResult, ...]:
    """Return what each of several series came to."""
    return tuple(
        SeriesResult(
            series=SeriesKey("BINANCE", MarketType.SPOT, symbol, Interval("1h")),
            statistics={**statistics, "trade_count": float(number)},
            klines=100,
            initial_cash=CASH / len(symbols),
            final_equity=CASH / len(symbols),
            open_position=None,
            pending_target=None,
        )
        for number, symbol in enumerate(symbols, start=40)
    )


def make_statistics(equity: Mapping[str, Column], trades: Mapping[str, Column]) -> dict[str, float]:
    """Return some statistics of each kind."""
    values, close, profit = equity["equity"], equity["close"], trades["profit"]
    found = {"trade_count": float(len(profit)), "total_fees": float(trades["fees"].sum()), "total_slippage": 81.25}
    found |= {"total_funding": -12.4, "average_trade_duration": 151_200.0, "time_in_market": 0.981, "beta": 0.12}
    if len(profit):
        won, lost = profit[profit > 0].sum(), -profit[profit < 0].sum()
        found |= {"win_rate": float((profit > 0).mean()), "profit_factor": float(won / lost) if lost else 1.0}
        found |= {"expectancy": float(profit.mean()), "largest_win": float(profit.max())}
        found |= {"largest_loss": float(profit.min()), "average_win": 190.0, "average_loss": -101.5}
    if len(values):
        total, returns = float(values[-1] / CASH - 1), np.diff(values) / values[:-1]
        found |= {"total_return": total, "cagr": total, "buy_and_hold_return": float(close[-1] / close[0] - 1)}
        found |= {"max_drawdown": float((values / np.maximum.accumulate(values) - 1).min()), "omega": 1.07}
        found |= {"sharpe": float(returns.mean() / returns.std() * 93.6), "max_drawdown_duration": 5_961_600.0}
        found |= {"sortino": 1.31, "calmar": 1.02, "annual_volatility": float(returns.std() * 93.6), "sqn": 1.4}
        found |= {"value_at_risk_95": -0.0213, "expected_shortfall_95": -0.0322, "ulcer_index": 0.0831}
    return found


def _average(values: Column, window: int) -> Column:
    sums = np.cumsum(np.insert(values, 0, 0.0))
    return np.append(np.zeros(window - 1), (sums[window:] - sums[:-window]) / window)


def _columns(trades: Sequence[tuple[float, ...]], open_time_ms: Column) -> dict[str, Column]:
    names = ("entry", "exit", "side", "quantity", "entry_price", "exit_price", "profit", "fees")
    columns = dict(zip(names, np.array(trades).T, strict=True))
    entry, exit_ = (columns.pop(name).astype(np.int64) for name in ("entry", "exit"))
    columns |= {"entry_time_ms": open_time_ms[entry], "exit_time_ms": open_time_ms[exit_]}
    return columns | {"exit_reason": np.full(len(trades), 1), "series": np.zeros(len(trades), np.int64)}
