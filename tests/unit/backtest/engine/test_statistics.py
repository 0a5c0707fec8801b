"""Statistics: hand-made cases, and what is absent when it is undefined."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from klinecast.types import ExecutionModel, KlineColumns, Signals, StatisticsConvention
from services.backtest.engine import simulate
from services.backtest.engine import statistics as stats
from services.backtest.engine.ratios import geometric_annual_return, geometric_sharpe, geometric_volatility

DAY = 86_400_000
MIXED = [math.nan, 0.01, 0.1, -0.04, 0.02, 0.03, 0.02, 0.01, -0.1]


def test_ratios_equal_empyrical():
    assert stats.sharpe_ratio(MIXED, 252) == pytest.approx(1.7238613961706866, abs=1e-8)
    assert stats.sortino_ratio(MIXED, 252) == pytest.approx(2.605531251673693, abs=1e-8)
    assert stats.annual_volatility(MIXED, 252) == pytest.approx(0.9136465399704637, abs=1e-8)
    required = 11.0 ** (1 / 252) - 1
    assert stats.omega_ratio(MIXED, threshold=required) == pytest.approx(0.8335426349755793, abs=1e-8)
    assert stats.alpha(MIXED, [-r for r in MIXED], 252) == pytest.approx(0.0, abs=1e-8)
    assert stats.beta(MIXED, [-r for r in MIXED]) == pytest.approx(-1.0)


def test_undefined_ratios_are_none():
    assert stats.sharpe_ratio([0.01], 365) is None
    assert stats.sharpe_ratio([0.01] * 9, 365) is None
    assert stats.sortino_ratio([0.01, 0.02], 365) is None
    assert stats.omega_ratio([0.01, 0.02]) is None
    assert stats.beta([0.01, 0.02], [0.1, 0.1]) is None
    assert stats.value_at_risk_95([]) is None


def test_tail_is_the_linear_quantile_and_the_mean_below():
    returns = np.random.default_rng(3).normal(0, 1, 101)
    quantile = np.quantile(returns, 0.05)
    assert stats.value_at_risk_95(returns) == pytest.approx(quantile)
    assert stats.expected_shortfall_95(returns) == pytest.approx(returns[returns <= quantile].mean())


def test_geometric_ratios_follow_their_formula():
    returns = np.array([0.01, -0.02, 0.03, 0.0])
    growth = np.prod(1 + returns) ** (1 / 4)
    yearly = np.prod(1 + returns) ** (252 / 4) - 1
    volatility = math.sqrt((returns.var(ddof=1) + growth**2) ** 252 - growth**504)
    assert geometric_annual_return(returns, 252) == pytest.approx(yearly)
    assert geometric_volatility(returns, 252) == pytest.approx(volatility)
    assert geometric_sharpe(returns, 252, 0.02) == pytest.approx((yearly - 0.02) / volatility)


def make(closes, start_ms=0, step_ms=3_600_000) -> KlineColumns:
    prices = np.asarray(closes, float)
    return KlineColumns(start_ms + step_ms * np.arange(len(prices)), prices, prices, prices, prices, prices)


def held(klines, **fields):
    return simulate(
        klines, Signals(np.ones(len(klines))), ExecutionModel(taker_fee_bps=0, fill_timing="THIS_CLOSE", **fields)
    )


def test_daily_samples_compound_to_the_total_return():
    random = np.random.default_rng(4)
    klines = make(100 * np.exp(np.cumsum(random.normal(0, 0.01, 100))), start_ms=5 * 3_600_000)
    outcome = held(klines)
    end_ms = int(klines.open_time_ms[-1]) + 3_600_000
    curve = stats.Curve(
        klines.open_time_ms, outcome.equity, 10_000.0, klines.close, klines.open[0], 3_600_000, end_ms
    )  # fmt: skip
    returns, _ = stats.sampled_returns(curve, daily=True)
    assert len(returns) == 5
    assert np.prod(1 + returns) - 1 == pytest.approx(outcome.equity[-1] / 10_000 - 1)
    assert returns[0] == pytest.approx(outcome.equity[18] / 10_000 - 1)


def test_days_without_klines_repeat_the_equity():
    times = np.array([0, 1, 2, 80, 81]) * 3_600_000
    price = np.array([1.0, 1.0, 2.0, 2.0, 4.0])
    klines = KlineColumns(times, price, price, price, price, price)
    found = stats.compute_statistics(held(klines), klines)
    returns = [1.0, 0.0, 0.0, 1.0]
    assert found["annual_volatility"] == pytest.approx(np.std(returns, ddof=1) * math.sqrt(365))


def test_of_a_run_that_rises_and_falls():
    klines = make([100, 200, 100, 150], step_ms=DAY)
    found = stats.compute_statistics(held(klines), klines, "1d")
    assert found["total_return"] == pytest.approx(0.5)
    assert found["buy_and_hold_return"] == pytest.approx(0.5)
    assert found["max_drawdown"] == pytest.approx(-0.5)
    assert found["max_drawdown_duration"] == 2 * 86_400
    assert found["ulcer_index"] == pytest.approx(math.sqrt((0.25 + 0.0625) / 4))
    assert found["time_in_market"] == 1.0
    assert found["exposure_mean"] == pytest.approx(1.0)
    assert found["cagr"] == pytest.approx(1.5 ** (365.25 / 4) - 1)
    assert found["beta"] == pytest.approx(1.0)
    assert (found["trade_count"], found["open_trade_count"], found["open_profit"]) == (0.0, 1.0, 5000.0)
    assert "win_rate" not in found
    assert "sqn" not in found


def test_trade_statistics():
    klines = make([10, 12, 10, 8, 10, 11], step_ms=DAY)
    target = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    execution = ExecutionModel(taker_fee_bps=0, fill_timing="THIS_CLOSE", target_unit="QUANTITY")
    found = stats.compute_statistics(simulate(klines, Signals(target), execution), klines, "1d")
    profits = [2.0, -2.0, 1.0]
    assert found["win_rate"] == pytest.approx(2 / 3)
    assert found["profit_factor"] == pytest.approx(1.5)
    assert found["expectancy"] == pytest.approx(1 / 3)
    assert (found["average_win"], found["average_loss"]) == (pytest.approx(1.5), pytest.approx(-2))
    assert (found["largest_win"], found["largest_loss"]) == (pytest.approx(2), pytest.approx(-2))
    assert found["average_trade_duration"] == 86_400
    assert found["sqn"] == pytest.approx(math.sqrt(3) * np.mean(profits) / np.std(profits, ddof=1))
    assert found["kelly"] == pytest.approx(2 / 3 - (1 / 3) / 0.75)


def test_per_trade_formula_is_freqtrades():
    klines = make([10, 12, 10, 8, 10, 11], step_ms=DAY)
    target = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    execution = ExecutionModel(taker_fee_bps=0, fill_timing="THIS_CLOSE", target_unit="QUANTITY")
    outcome = simulate(klines, Signals(target), execution, 100.0)
    found = stats.compute_statistics(outcome, klines, "1d", StatisticsConvention(formula="PER_TRADE"))
    x = np.array([0.02, -0.02, 0.01])
    assert found["sharpe"] == pytest.approx(x.sum() / 6 / x.std() * math.sqrt(365))
    assert "sortino" not in found


def test_nothing_is_sampled_after_ruin():
    klines = make([10, 25, 5, 5], step_ms=DAY)
    signals = Signals(np.full(4, -1.0))
    execution = ExecutionModel(allow_short=True, fill_timing="THIS_CLOSE", taker_fee_bps=0)
    found = stats.compute_statistics(simulate(klines, signals, execution), klines, "1d")
    assert found["total_return"] == -1.0
    assert found["value_at_risk_95"] == pytest.approx(-0.95)


def test_a_year_of_hourly_klines_takes_well_under_a_millisecond():
    klines = make(100 * np.exp(np.cumsum(np.random.default_rng(5).normal(0, 0.01, 8760))))
    signals = Signals(np.repeat(np.arange(876) % 2, 10).astype(float))
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        stats.compute_statistics(simulate(klines, signals, ExecutionModel()), klines)
        best = min(best, time.perf_counter() - start)
    assert best < 0.005


def test_a_benchmark_of_another_length_is_refused():
    with pytest.raises(ValueError, match="benchmark: 2 returns, others have 3"):
        stats.beta([0.1, -0.1, 0.2], [0.1, 0.2])


def test_returns_lent_read_only_are_taken():
    lent = np.array(MIXED)
    lent.setflags(write=False)
    assert stats.sharpe_ratio(lent, 252) == stats.sharpe_ratio(MIXED, 252)
