"""The built-in strategies: indicators equal to TA-Lib, the documented decisions, an exact memory."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
import talib

from klinecast.strategy import Mode
from klinecast.types import KlineColumns
from services.backtest.strategies import compute_signals, default_registry, run_strategy, validate_params
from services.backtest.strategies.averages import (
    exponential_means,
    relative_strength,
    window_deviations,
    window_means,
)

NAMES = ["bollinger", "donchian_breakout", "dual_ma", "macd", "rsi"]
CASES = [(name, {}) for name in NAMES] + [
    ("dual_ma", {"average": "ema"}),
    ("bollinger", {"width": 1.0}),
    ("donchian_breakout", {"entry": 5, "exit": 1}),
]


def make(close) -> KlineColumns:
    prices = np.asarray(close, float)
    return KlineColumns(np.arange(len(prices)), prices, prices, prices, prices, prices)


@pytest.fixture
def close() -> np.ndarray:
    return 100 * np.exp(np.cumsum(np.random.default_rng(11).normal(0, 0.02, 1500)))


def decide(name, close, mode="long_only", **params):
    return compute_signals(name, params, make(close), mode).target_exposure


@pytest.mark.parametrize(
    ("name", "params", "first"),
    [
        ("dual_ma", {}, 29),
        ("dual_ma", {"average": "ema"}, 29),
        ("rsi", {"lower": 49.99, "upper": 50}, 14),
        ("macd", {}, 33),
    ],
)
def test_the_first_decision_is_at_warmup(close, name, params, first):
    decided = np.flatnonzero(~np.isnan(decide(name, close, **params)))
    strategy = default_registry().get(name)
    assert decided[0] == first == strategy.warmup(validate_params(strategy, params))


def test_dual_ma_is_the_sign_of_the_difference(close):
    difference = talib.SMA(close, 10) - talib.SMA(close, 30)
    expected = np.where(np.isnan(difference), np.nan, np.where(difference > 0, 1.0, -1.0))
    assert np.array_equal(decide("dual_ma", close, "long_short"), expected, equal_nan=True)


def test_ema_equals_talib(close):
    means = np.empty(len(close))
    exponential_means(close, 0, 21, np.zeros(2), means)
    np.testing.assert_allclose(means, talib.EMA(close, 21), rtol=1e-9)


def test_rsi_equals_talib_and_decides_by_it(close):
    index = np.empty(len(close))
    relative_strength(close, 14, np.zeros(4), index)
    expected = talib.RSI(close, 14)
    np.testing.assert_allclose(index, expected, rtol=1e-9)
    decisions = np.where(expected < 30, 1.0, np.where(expected > 70, 0.0, np.nan))
    assert np.array_equal(decide("rsi", close), decisions, equal_nan=True)


def test_rsi_of_tiny_prices_is_not_taken_for_a_dead_market(close):
    tiny = close * 1e-9
    index = np.empty(len(close))
    relative_strength(tiny, 14, np.zeros(4), index)
    np.testing.assert_allclose(index, talib.RSI(tiny, 14), rtol=1e-6)


def test_rsi_has_no_opinion_on_a_dead_market():
    assert np.isnan(decide("rsi", [5.0] * 50)).all()


def test_macd_equals_talib(close):
    line, signal, _ = talib.MACD(close)
    expected = np.where(np.isnan(signal), np.nan, np.where(line > signal, 1.0, 0.0))
    assert np.array_equal(decide("macd", close), expected, equal_nan=True)


def test_bollinger_keeps_a_side_between_the_bands(close):
    upper, middle, lower = talib.BBANDS(close, 20, 2, 2)
    side, expected = 0.0, np.full(len(close), np.nan)
    for i in range(19, len(close)):
        before = side
        if close[i] < lower[i]:
            side = 1.0
        elif close[i] > upper[i]:
            side = -1.0
        elif (side == 1 and close[i] > middle[i]) or (side == -1 and close[i] < middle[i]):
            side = 0.0
        if side != before:
            expected[i] = side
    assert np.array_equal(decide("bollinger", close, "long_short"), expected, equal_nan=True)
    assert np.nanmin(decide("bollinger", close)) == 0.0


@pytest.mark.parametrize("mode", ["long_only", "long_short"])
@pytest.mark.parametrize(("entry", "exit_"), [(20, 10), (5, 5), (1, 1), (300, 40)])
def test_donchian_breakout_is_the_rule_of_a_plain_loop(close, mode, entry, exit_):
    numbers = np.random.default_rng(4)
    high, low = close * (1 + numbers.random(len(close)) / 50), close * (1 - numbers.random(len(close)) / 50)
    klines = KlineColumns(np.arange(len(close)), close, high, low, close, close)
    side, expected = 0.0, np.full(len(close), np.nan)
    for i in range(entry, len(close)):
        before = side
        if close[i] > max(high[i - entry : i]):
            side = 1.0
        elif close[i] < min(low[i - entry : i]):
            side = -1.0 if mode == "long_short" else 0.0
        elif (side == 1 and close[i] < min(low[i - exit_ : i])) or (side == -1 and close[i] > max(high[i - exit_ : i])):
            side = 0.0
        if side != before:
            expected[i] = side
    found = compute_signals("donchian_breakout", {"entry": entry, "exit": exit_}, klines, mode).target_exposure
    assert np.array_equal(found, expected, equal_nan=True)


def test_buy_and_hold_is_long_from_the_first_kline(close):
    assert (decide("buy_and_hold", close) == 1.0).all()


def test_deviations_are_taken_about_the_mean_of_large_prices():
    close = 1e9 + np.random.default_rng(1).normal(0, 1e-3, 500)
    means, deviations = np.empty(500), np.empty(500)
    window_means(close, 0, 20, np.zeros(3), means)
    window_deviations(close, 0, 20, means, deviations)
    np.testing.assert_allclose(deviations[-1], np.std(close[-20:]), rtol=1e-9)


@pytest.mark.parametrize("period", [1, 2, 30, 1000])
def test_window_means_are_exact_to_1e_13_even_after_an_outlier(period):
    values = np.exp(np.random.default_rng(2).normal(0, 5, 5000))
    values[100] = 1e30
    means = np.empty(5000)
    window_means(values, 0, period, np.zeros(3), means)
    for end in (period, 1200, 2500, 5000):
        exact = sum(map(Fraction, values[end - period : end])) / period if end >= period else None
        if exact is not None:
            assert abs(Fraction(means[end - 1]) / exact - 1) <= Fraction(1, 10**13)


@pytest.mark.parametrize("name", ["dual_ma", "macd"])
def test_a_tie_is_no_decision(name):
    assert np.isnan(decide(name, [7.1] * 100)).all()


@pytest.mark.parametrize(("name", "params"), CASES)
@pytest.mark.parametrize("cut", [1, 13, 29, 30, 700])
def test_going_on_from_a_state_equals_one_run_bit_for_bit(close, name, params, cut):
    strategy = default_registry().get(name)
    checked = validate_params(strategy, params)
    klines = make(close)
    whole, end = run_strategy(strategy, checked, klines, Mode.LONG_SHORT)
    first, state = run_strategy(strategy, checked, klines.slice(0, cut), Mode.LONG_SHORT)
    second, last = run_strategy(strategy, checked, klines.slice(cut), Mode.LONG_SHORT, state)
    joined = np.concatenate([first.target_exposure, second.target_exposure])
    assert joined.tobytes() == whole.target_exposure.tobytes()
    assert last.tobytes() == end.tobytes()


@pytest.mark.parametrize(("name", "params"), CASES)
def test_later_klines_change_no_decision(close, name, params):
    whole = decide(name, close, **params)
    for end in (1, 50, 777):
        assert decide(name, close[:end], **params).tobytes() == whole[:end].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_too_few_klines_give_no_decision_and_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(decide(name, [1.0, 2.0, 3.0])).all()
