"""Every value of every enum of the execution model and of the statistics, with a number worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from klinecast.types import (
    Account,
    ExecutionModel,
    FillReason,
    FundingColumns,
    KlineColumns,
    MarketType,
    Signals,
    StatisticsConvention,
)
from services.backtest.engine import EngineError, Outcome, combine, simulate, simulate_shared
from services.backtest.engine.statistics import compute_statistics

NAN = math.nan
HOUR = 3_600_000
EVEN = (100, 100, 100, 100)
BOTH = (100, 112, 88, 105)
"""A kline that reaches 10 % above and below 100; its open is nearer to neither."""


def bars(*rows: tuple[float, float, float, float], step_ms: int = HOUR) -> KlineColumns:
    table = np.array(rows, float)
    return KlineColumns(step_ms * np.arange(len(table)), *table.T, np.ones(len(table)))


def run(klines: KlineColumns, targets: list[float], cash: float = 1000.0, **fields: object) -> Outcome:
    extra = {name: fields.pop(name) for name in ("funding",) if name in fields}
    model = ExecutionModel(**{"taker_fee_bps": 0, **fields})
    return simulate(klines, Signals(np.array(targets, float)), model, cash, interval_ms=HOUR, **extra)


def fills(outcome: Outcome) -> list[tuple[int, str, float, float]]:
    return [
        (int(f["kline_index"]), FillReason(f["reason"]).name, float(f["side"] * f["quantity"]), float(f["price"]))
        for f in outcome.fills
    ]


def at_next_open() -> None:
    assert fills(run(bars(EVEN, (110, 120, 90, 115)), [1, NAN])) == [(1, "SIGNAL", 1000 / 110, 110)]


def at_this_close() -> None:
    found = run(bars((90, 120, 90, 110), EVEN), [1, NAN], fill_timing="THIS_CLOSE")
    assert fills(found) == [(0, "SIGNAL", 1000 / 110, 110)]


def spot_buys_what_cash_pays() -> None:
    found = run(bars(EVEN, EVEN), [1, NAN], taker_fee_bps=100)
    assert fills(found) == [(1, "SIGNAL", pytest.approx(1000 / 101), 100)]
    assert found.cash == 0.0


def a_perpetual_takes_leverage_and_funding() -> None:
    funding = FundingColumns(np.array([0, 2 * HOUR]), np.array([0.01, 0.01]), np.array([NAN, 50.0]))
    klines = bars(EVEN, EVEN, EVEN)
    found = run(
        klines, [3, NAN, NAN], market_type="LINEAR_PERPETUAL", max_leverage=3, funding=funding, funding_interval_hours=2
    )
    assert fills(found) == [(1, "SIGNAL", 30, 100)]
    assert found.total_funding == 30 * 50 * 0.01
    assert found.equity[-1] == 1000 - 15


def an_inverse_perpetual_is_refused() -> None:
    with pytest.raises(EngineError) as caught:
        run(bars(EVEN, EVEN), [1, NAN], market_type="INVERSE_PERPETUAL")
    assert caught.value.reason == "UNSUPPORTED_MARKET_TYPE"


def protected_from_the_entry_kline() -> None:
    klines = bars(EVEN, (100, 101, 89, 95), (95, 96, 94, 95))
    assert fills(run(klines, [1, NAN, NAN], stop_loss=0.1)) == [(1, "SIGNAL", 10, 100), (1, "STOP_LOSS", -10, 90)]


def protected_from_the_next_kline() -> None:
    klines = bars(EVEN, (100, 101, 89, 95), (95, 96, 88, 95))
    found = run(klines, [1, NAN, NAN], stop_loss=0.1, protect_from="NEXT_KLINE")
    assert fills(found) == [(1, "SIGNAL", 10, 100), (2, "STOP_LOSS", -10, 90)]


def stop_first() -> None:
    found = run(bars(EVEN, EVEN, BOTH), [1, NAN, NAN], stop_loss=0.1, take_profit=0.1)
    assert fills(found)[1] == (2, "STOP_LOSS", -10, 90)
    assert (found.ambiguous_klines, found.bounds) == (1, pytest.approx((-0.1, 0.1)))


def target_first() -> None:
    found = run(bars(EVEN, EVEN, BOTH), [1, NAN, NAN], stop_loss=0.1, take_profit=0.1, intrabar_policy="TARGET_FIRST")
    assert fills(found)[1] == (2, "TAKE_PROFIT", -10, pytest.approx(110))
    assert found.bounds == pytest.approx((-0.1, 0.1))


def nearest_first() -> None:
    fields = {"stop_loss": 0.1, "take_profit": 0.1, "intrabar_policy": "NEAREST_FIRST"}
    up = run(bars(EVEN, EVEN, (106, 112, 88, 100)), [1, NAN, NAN], **fields)
    down = run(bars(EVEN, EVEN, (94, 112, 88, 100)), [1, NAN, NAN], **fields)
    tie = run(bars(EVEN, EVEN, BOTH), [1, NAN, NAN], stop_loss=0.1, take_profit=0.125, intrabar_policy="NEAREST_FIRST")
    assert [fills(one)[1][1] for one in (up, down, tie)] == ["TAKE_PROFIT", "STOP_LOSS", "STOP_LOSS"]


def a_gap_fills_at_the_open() -> None:
    found = run(bars(EVEN, EVEN, (85, 95, 80, 90)), [1, NAN, NAN], stop_loss=0.1)
    assert fills(found)[1] == (2, "STOP_LOSS", -10, 85)


def a_gap_fills_at_the_level_that_the_kline_holds() -> None:
    inside = run(bars(EVEN, EVEN, (85, 95, 80, 90)), [1, NAN, NAN], stop_loss=0.1, gap_policy="AT_LEVEL")
    beyond = run(bars(EVEN, EVEN, (85, 86, 80, 82)), [1, NAN, NAN], stop_loss=0.1, gap_policy="AT_LEVEL")
    assert [fills(one)[1][3] for one in (inside, beyond)] == [90, 85]


def reaching_a_level_touches_it() -> None:
    assert len(run(bars(EVEN, EVEN, (100, 101, 90, 95)), [1, NAN, NAN], stop_loss=0.1).fills) == 2


def only_trading_through_a_level_touches_it() -> None:
    fields = {"stop_loss": 0.1, "touch_rule": "STRICT"}
    assert len(run(bars(EVEN, EVEN, (100, 101, 90, 95)), [1, NAN, NAN], **fields).fills) == 1
    assert len(run(bars(EVEN, EVEN, (100, 101, 89.9, 95)), [1, NAN, NAN], **fields).fills) == 2


def a_target_in_exposure() -> None:
    assert fills(run(bars(EVEN, EVEN), [0.25, NAN])) == [(1, "SIGNAL", 2.5, 100)]


def a_target_in_quantity() -> None:
    assert fills(run(bars(EVEN, EVEN), [3, NAN], target_unit="QUANTITY")) == [(1, "SIGNAL", 3, 100)]


def a_target_in_notional() -> None:
    assert fills(run(bars(EVEN, EVEN), [450, NAN], target_unit="NOTIONAL")) == [(1, "SIGNAL", 4.5, 100)]


def orders_when_the_target_changes() -> None:
    klines = bars(EVEN, EVEN, (200, 200, 200, 200))
    assert fills(run(klines, [0.5, 0.5, NAN])) == [(1, "SIGNAL", 5, 100)]


def orders_at_every_kline() -> None:
    klines = bars(EVEN, EVEN, (200, 200, 200, 200))
    found = run(klines, [0.5, NAN, NAN], rebalance="EVERY_KLINE")
    assert fills(found) == [(1, "SIGNAL", 5, 100), (2, "SIGNAL", -1.25, 200)]
    assert len(run(klines, [0.5, NAN, NAN], rebalance="EVERY_KLINE", rebalance_tolerance=0.2).fills) == 1


def in_again_after_a_change() -> None:
    klines = bars(EVEN, EVEN, (100, 100, 85, 100), EVEN, EVEN, EVEN)
    found = run(klines, [1, 1, 1, 0, 1, NAN], stop_loss=0.1)
    assert [row[:2] for row in fills(found)] == [(1, "SIGNAL"), (2, "STOP_LOSS"), (5, "SIGNAL")]


def in_again_at_the_next_decision() -> None:
    klines = bars(EVEN, EVEN, (100, 100, 85, 100), EVEN, EVEN)
    found = run(klines, [1, 1, 1, NAN, NAN], stop_loss=0.1, reentry="NEXT_DECISION")
    assert [row[:2] for row in fills(found)] == [(1, "SIGNAL"), (2, "STOP_LOSS"), (3, "SIGNAL")]


def missing_funding_fails() -> None:
    with pytest.raises(EngineError) as caught:
        run(bars(EVEN, EVEN), [1, NAN], market_type="LINEAR_PERPETUAL")
    assert (caught.value.reason, caught.value.kline_index) == ("MISSING_FUNDING", 0)


def missing_funding_is_zero() -> None:
    found = run(bars(EVEN, EVEN), [1, NAN], market_type="LINEAR_PERPETUAL", missing_funding="ZERO")
    assert (found.missing_funding, found.total_funding) == (1, 0)


PERPETUAL = {"market_type": "LINEAR_PERPETUAL", "max_leverage": 2, "missing_funding": "ZERO", "liquidation_fee_bps": 0}


def isolated_margin() -> None:
    found = run(bars(EVEN, EVEN, (100, 100, 45, 60)), [1, NAN, NAN], **PERPETUAL, maintenance_margin_rate=0.1)
    assert fills(found)[1] == (2, "LIQUIDATION", -10, pytest.approx(100 * 0.5 / 0.9))


def cross_margin() -> None:
    found = run(
        bars(EVEN, EVEN, (100, 100, 45, 60)),
        [2, NAN, NAN],
        **PERPETUAL,
        maintenance_margin_rate=0.1,
        margin_mode="CROSS",
    )
    assert fills(found)[1] == (2, "LIQUIDATION", -20, pytest.approx(-1000 / (0.1 * 20 - 20)))


def held(days: int, **convention: object) -> dict[str, float]:
    """Hold over days of 24 hourly klines each, the close doubling on each day's last kline."""
    prices = np.concatenate([np.full(24, 100.0 * 2.0**day) for day in range(days)])
    closes = np.append(prices[1:], prices[-1] * 2)
    klines = KlineColumns(HOUR * np.arange(24 * days), prices, closes, prices, closes, np.ones(24 * days))
    outcome = simulate(klines, Signals(np.ones(24 * days)), ExecutionModel(taker_fee_bps=0, fill_timing="THIS_CLOSE"))
    return compute_statistics(outcome, klines, "1h", StatisticsConvention(**convention))


def sampled_daily() -> None:
    assert held(3)["value_at_risk_95"] == pytest.approx(1.0)
    assert "sharpe" not in held(3)  # every day doubles: nothing deviates


def sampled_per_kline() -> None:
    returns = np.zeros(72)
    returns[[23, 47, 71]] = 1.0
    found = held(3, sampling="PER_KLINE")
    assert found["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(365 * 24))


RETURNS = [0.02, -0.01, 0.03]


def three_days(**convention: object) -> dict[str, float]:
    """A first day without a return, then RETURNS; one closed trade of each later day."""
    equity = 1000 * np.cumprod([1, *[1 + one for one in RETURNS]])
    prices = equity / 10
    klines = KlineColumns(24 * HOUR * np.arange(4), prices, prices, prices, prices, np.ones(4))
    model = ExecutionModel(taker_fee_bps=0, fill_timing="THIS_CLOSE", close_at_end=True)
    outcome = simulate(klines, Signals(np.array([1.0, NAN, NAN, NAN])), model, 1000.0)
    return compute_statistics(outcome, klines, "1d", StatisticsConvention(**convention))


def the_standard_formula() -> None:
    returns = np.array([0, *RETURNS])
    assert three_days()["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(365))


def the_geometric_formula() -> None:
    growth = np.prod(np.array(RETURNS) + 1)
    yearly = growth ** (252 / 3) - 1
    variance = np.var(RETURNS, ddof=1)
    volatility = math.sqrt((variance + growth ** (2 / 3)) ** 252 - growth ** (2 / 3 * 252))
    found = three_days(formula="GEOMETRIC", days_per_year=252)
    assert found["sharpe"] == pytest.approx(yearly / volatility)
    assert found["annual_volatility"] == pytest.approx(volatility)
    assert found["sortino"] == pytest.approx(yearly / (math.sqrt(0.0001 / 3) * math.sqrt(252)))
    assert found["calmar"] == pytest.approx(yearly / 0.01)


def the_formula_per_trade() -> None:
    found = three_days(formula="PER_TRADE")
    assert "sharpe" not in found  # one trade does not deviate
    prices = np.array([100.0, 110.0, 110.0, 104.5, 104.5])
    klines = KlineColumns(24 * HOUR * np.arange(5), prices, prices, prices, prices, np.ones(5))
    model = ExecutionModel(taker_fee_bps=0, fill_timing="THIS_CLOSE")
    outcome = simulate(klines, Signals(np.array([1.0, 0, 1, 0, NAN])), model, 1000.0)
    shares = np.array([0.1, -0.055])
    found = compute_statistics(outcome, klines, "1d", StatisticsConvention(formula="PER_TRADE"))
    assert found["sharpe"] == pytest.approx(shares.sum() / 5 / shares.std() * math.sqrt(365))
    assert "sortino" not in found


TWO = [bars(EVEN, EVEN, (110, 110, 110, 110)), bars((50,) * 4, (50,) * 4, (40,) * 4)]
BUY = [Signals(np.array([1.0, NAN, NAN]))] * 2


def separate_accounts() -> None:
    model = ExecutionModel(taker_fee_bps=0)
    outcomes = [simulate(one, decided, model, 500.0) for one, decided in zip(TWO, BUY, strict=True)]
    assert list(combine(TWO, outcomes).equity) == [1000, 1000, 550 + 400]


def a_shared_account() -> None:
    assert list(simulate_shared(TWO, BUY, ExecutionModel(taker_fee_bps=0), 1000.0).equity) == [1000, 1000, 1100]


GOLDEN: dict[str, Callable[[], None]] = {
    "Account.SEPARATE": separate_accounts,
    "Account.SHARED": a_shared_account,
    "FillTiming.NEXT_OPEN": at_next_open,
    "FillTiming.THIS_CLOSE": at_this_close,
    "Formula.STANDARD": the_standard_formula,
    "Formula.GEOMETRIC": the_geometric_formula,
    "Formula.PER_TRADE": the_formula_per_trade,
    "GapPolicy.AT_OPEN": a_gap_fills_at_the_open,
    "GapPolicy.AT_LEVEL": a_gap_fills_at_the_level_that_the_kline_holds,
    "IntrabarPolicy.STOP_FIRST": stop_first,
    "IntrabarPolicy.TARGET_FIRST": target_first,
    "IntrabarPolicy.NEAREST_FIRST": nearest_first,
    "MarginMode.ISOLATED": isolated_margin,
    "MarginMode.CROSS": cross_margin,
    "MarketType.SPOT": spot_buys_what_cash_pays,
    "MarketType.LINEAR_PERPETUAL": a_perpetual_takes_leverage_and_funding,
    "MarketType.INVERSE_PERPETUAL": an_inverse_perpetual_is_refused,
    "MissingFunding.FAIL": missing_funding_fails,
    "MissingFunding.ZERO": missing_funding_is_zero,
    "ProtectFrom.ENTRY_KLINE": protected_from_the_entry_kline,
    "ProtectFrom.NEXT_KLINE": protected_from_the_next_kline,
    "Rebalance.ON_CHANGE": orders_when_the_target_changes,
    "Rebalance.EVERY_KLINE": orders_at_every_kline,
    "Reentry.AFTER_CHANGE": in_again_after_a_change,
    "Reentry.NEXT_DECISION": in_again_at_the_next_decision,
    "Sampling.DAILY": sampled_daily,
    "Sampling.PER_KLINE": sampled_per_kline,
    "TargetUnit.EXPOSURE": a_target_in_exposure,
    "TargetUnit.QUANTITY": a_target_in_quantity,
    "TargetUnit.NOTIONAL": a_target_in_notional,
    "TouchRule.INCLUSIVE": reaching_a_level_touches_it,
    "TouchRule.STRICT": only_trading_through_a_level_touches_it,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_value_means_what_it_says(name):
    GOLDEN[name]()


def test_no_value_of_any_enum_is_without_its_number():
    model, convention = ExecutionModel(), StatisticsConvention()
    values = [getattr(one, field.name) for one in (model, convention) for field in dataclasses.fields(one)]
    kinds = {type(value) for value in values if hasattr(type(value), "__members__")} | {Account, MarketType}
    assert {f"{kind.__name__}.{member.name}" for kind in kinds for member in kind} == set(GOLDEN)
