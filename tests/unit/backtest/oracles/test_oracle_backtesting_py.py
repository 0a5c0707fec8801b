"""backtesting.py's published small cases and formulas: commissions, gaps, stop entries, geometric ratios."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.backtest.engine import ExecutionModel, KlineColumns, Signals, simulate
from services.backtest.engine import statistics as stats
from services.backtest.engine.ratios import (
    geometric_annual_return,
    geometric_sharpe,
    geometric_sortino,
    geometric_volatility,
)
from services.backtest.engine.statistics import StatisticsConvention, compute_statistics
from tests.unit.backtest.oracles.published import Case, cases_of, document, parametrize, require_counts

FILE = "backtesting_py.json"
DAY_MS = 86_400_000
UNITS = {"target_unit": "QUANTITY", "step_size": 1.0}
NAN = math.nan


def make_klines(rows: list[tuple[float, ...]]) -> KlineColumns:
    """Return daily klines from (open, high, low, close) rows."""
    return KlineColumns(DAY_MS * np.arange(len(rows)), *np.array(rows, float).T, np.ones(len(rows)))


def fixed_and_relative_commission(given: dict[str, Any]) -> list[float]:
    """Bought on kline 1, sold on kline 2, each filled at the next open; 47 units are what 9,999 pays there.

    The published equities determine the three prices that count: two opens and the close between them.
    """
    flat = (100.0,) * 4
    rows = [flat, flat, (110.75, 113.48, 109.05, 109.40), (111.24, 111.60, 103.57, 104.87)]
    execution = ExecutionModel(**UNITS, taker_fee_bps=100.0, fixed_fee=100.0)
    signals = Signals(np.array([NAN, 47.0, 0.0, NAN]))
    return [round(value, 2) for value in simulate(make_klines(rows), signals, execution, 10_000.0).equity[2:]]


def target_jumped_over(given: dict[str, Any]) -> list[float]:
    prices = given["open_high_low_close_all"]
    target = np.full(len(prices), NAN)
    target[1] = 100.0
    execution = ExecutionModel(**UNITS, taker_fee_bps=100.0, fixed_fee=10.0, take_profit=3.0 / prices[2] - 1.0)
    outcome = simulate(make_klines([(price,) * 4 for price in prices]), Signals(target), execution, given["cash"])
    return [outcome.fills["fee"].sum(), outcome.trades[0]["fees"], outcome.equity[-1]]


def stop_entry_and_stop_in_one_kline(given: dict[str, Any]) -> list[float]:
    klines = make_klines([tuple(row[1:]) for row in given["bars"]])
    signals = Signals(np.array([1.0, NAN, NAN]), stop_price=np.array([758.0, NAN, NAN]))
    outcome = simulate(klines, signals, ExecutionModel(**UNITS, taker_fee_bps=0.0, stop_loss=1.0 - 720.0 / 758.0))
    (only,) = outcome.trades
    assert (only["entry_index"], only["entry_price"], only["exit_index"]) == (1, 758.0, 2)
    return [only["exit_price"]]


def drawdowns(given: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Hold through the drawdowns, in tenths of the peak, then only through those from kline 3 on."""
    found: dict[str, dict[str, float]] = {"durations": {}, "peaks": {}}
    prices = 100.0 * (1.0 - np.array(given["drawdown_series"]) / 10.0)
    for start in (0, 3):
        klines = make_klines([(price,) * 4 for price in prices[start:]])
        execution = ExecutionModel(taker_fee_bps=0.0, fill_timing="THIS_CLOSE")
        statistics = compute_statistics(simulate(klines, Signals(np.ones(len(klines))), execution), klines, "1d")
        days = round(statistics["max_drawdown_duration"] / 86_400)
        end = str(start + days)
        found["durations"][end] = days
        found["peaks"][end] = round(-10.0 * statistics["max_drawdown"], 9)
    return found


SMALL: dict[str, Callable[[dict[str, Any]], Any] | str] = {
    "test_spread_commission#1": "spread on entry only",
    "test_spread_commission#2": fixed_and_relative_commission,
    "test_commissions": target_jumped_over,
    "test_trade_enter_hit_sl_on_same_day#2": stop_entry_and_stop_in_one_kline,
    "test_stop_limit_order_price_is_stop_price": "stop-limit orders, and a resting exit",
    "test_compute_drawdown": drawdowns,
}


def small_cases(found: dict[str, Any]) -> list[Case]:
    cases = []
    for row in found["small_cases"]:
        name = row["test"].rsplit("::")[-1]
        adapter = SMALL[name]
        cases.append(Case(name, row, adapter if isinstance(adapter, str) else None))
    return cases


SMALL_CASES = cases_of(FILE, small_cases)


@parametrize(SMALL_CASES)
def test_a_small_case_is_as_published(case: Case) -> None:
    adapter = SMALL[case.name]
    assert callable(adapter)
    found = adapter(case.given["params"])
    expected = case.given["expected"]
    if isinstance(expected, dict):
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=1e-8)


def published_run(found: dict[str, Any]) -> list[Case]:
    return [Case("sma_cross", found["published_sma_cross"], "the daily GOOG series is not kept with the numbers")]


RUN = cases_of(FILE, published_run)


@parametrize(RUN)
def test_the_sma_cross_is_as_published(case: Case) -> None:
    raise AssertionError(case.name)


def test_the_calmar_of_the_published_run_follows_from_its_klines_return_and_drawdown() -> None:
    """Calmar = Return (Ann.) / |max drawdown|, and Return (Ann.) needs of the run only its return and its klines."""
    found = document(FILE)
    if found is None:
        pytest.skip("the published numbers are kept beside the repository, not in it")
    expected = found["published_sma_cross"]["expected"]
    worst, final = 1.0 + expected["Max. Drawdown [%]"] / 100, expected["Equity Final [$]"] / 10_000
    prices = np.ones(2148)
    prices[1000], prices[-1] = worst, final
    klines = make_klines([(price,) * 4 for price in prices])
    outcome = simulate(klines, Signals(np.ones(len(prices))), ExecutionModel(taker_fee_bps=0.0))
    convention = StatisticsConvention(formula="GEOMETRIC", days_per_year=252)
    statistics = compute_statistics(outcome, klines, "1d", convention)
    assert statistics["total_return"] == pytest.approx(expected["Return [%]"] / 100, rel=1e-8)
    assert statistics["max_drawdown"] == pytest.approx(expected["Max. Drawdown [%]"] / 100, rel=1e-8)
    assert statistics["calmar"] == pytest.approx(expected["Calmar Ratio"], rel=1e-8)


RETURNS = np.random.default_rng(8).normal(0.001, 0.02, 500)
DAYS = 252
GROWTH = np.prod(1 + RETURNS) ** (1 / len(RETURNS))
YEARLY = np.prod(1 + RETURNS) ** (DAYS / len(RETURNS)) - 1
VOLATILITY = math.sqrt((RETURNS.var(ddof=1) + GROWTH**2) ** DAYS - GROWTH ** (2 * DAYS))
PRICES = np.concatenate([[100.0], 100.0 * np.cumprod(1 + RETURNS)])
WORST = (PRICES / np.maximum.accumulate(PRICES) - 1).min()


def some_trades() -> tuple[dict[str, float], np.ndarray]:
    """Return the statistics of a run of many trades without costs, one unit each, and their profits."""
    klines = make_klines([(price,) * 4 for price in PRICES])
    target = np.tile([1.0, NAN, 0.0, -1.0, 0.0], len(PRICES) // 5 + 1)[: len(PRICES)]
    execution = ExecutionModel(target_unit="QUANTITY", allow_short=True, taker_fee_bps=0.0)
    outcome = simulate(klines, Signals(target), execution)
    profit = outcome.trades["profit"][outcome.trades["exit_index"] >= 0]
    assert len(profit) > 100
    return compute_statistics(outcome, klines, "1d"), profit


def kelly() -> float:
    profit = some_trades()[1]
    rate = (profit > 0).mean()
    return rate - (1 - rate) / (profit[profit > 0].mean() / -profit[profit < 0].mean())


def sqn() -> float:
    profit = some_trades()[1]
    return math.sqrt(len(profit)) * profit.mean() / profit.std(ddof=1)


FORMULAS: dict[str, Callable[[], tuple[float | None, float]] | str] = {
    "Return (Ann.)": lambda: (geometric_annual_return(RETURNS, DAYS), YEARLY),
    "Volatility (Ann.)": lambda: (geometric_volatility(RETURNS, DAYS), VOLATILITY),
    "Sharpe": lambda: (geometric_sharpe(RETURNS, DAYS, 0.02), (YEARLY - 0.02) / VOLATILITY),
    "Sortino": lambda: (
        geometric_sortino(RETURNS, DAYS),
        YEARLY / (math.sqrt(np.mean(np.minimum(RETURNS, 0) ** 2)) * math.sqrt(DAYS)),
    ),
    "Calmar": lambda: (
        stats.calmar_ratio(geometric_annual_return(RETURNS, DAYS), stats.max_drawdown(PRICES, 100.0)),
        YEARLY / abs(WORST),
    ),
    "CAGR": lambda: (
        stats.cagr(PRICES[-1], PRICES[0], 500 * DAY_MS),
        (PRICES[-1] / PRICES[0]) ** (1 / (500 / 365.25)) - 1,
    ),
    "SQN": lambda: (some_trades()[0]["sqn"], sqn()),
    "Kelly": lambda: (some_trades()[0]["kelly"], kelly()),
    "Win Rate": lambda: (some_trades()[0]["win_rate"], (some_trades()[1] > 0).mean()),
    "Profit Factor": "a profit factor of returns: here it is of money",
    "Expectancy": "a mean of trade returns: here it is of money",
    "Avg. Trade": "a geometric mean of trade returns: no such statistic",
    "Exposure": "exposure that counts the kline of the exit: here a kline counts by its close",
    "Buy & Hold": "buy and hold from the end of the warm-up: here from the first open",
    "Beta/Alpha": "beta of log returns, alpha of total returns: here both are of sampled returns",
}


def formula_cases(found: dict[str, Any]) -> list[Case]:
    rows = ((name, text, FORMULAS[name]) for name, text in found["formulas"].items())
    return [Case(name, text, check if isinstance(check, str) else None) for name, text, check in rows]


FORMULA_CASES = cases_of(FILE, formula_cases)


@parametrize(FORMULA_CASES)
def test_a_formula_is_followed(case: Case) -> None:
    check = FORMULAS[case.name]
    assert callable(check)
    found, expected = check()
    assert found == pytest.approx(expected, rel=1e-8)


def test_no_case_was_lost() -> None:
    require_counts(FILE, [*SMALL_CASES, *RUN, *FORMULA_CASES])
    found = document(FILE)
    assert found is not None
    assert (len(SMALL_CASES), len(FORMULA_CASES)) == (len(found["small_cases"]), len(found["formulas"]))
