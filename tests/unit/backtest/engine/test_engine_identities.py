"""What holds for every run: money is conserved, a split changes nothing, scale changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backtest.engine import (
    EngineState,
    ExecutionModel,
    FundingColumns,
    KlineColumns,
    Signals,
    Simulation,
    simulate,
)

HOUR_MS = 3_600_000


def make_klines(seed: int, n: int) -> KlineColumns:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.03, n)))
    opens = np.append(100.0, close[:-1]) * np.exp(random.normal(0, 0.01, n))
    high = np.maximum(opens, close) * (1 + random.exponential(0.01, n))
    low = np.minimum(opens, close) / (1 + random.exponential(0.01, n))
    return KlineColumns(HOUR_MS * np.arange(n), opens, high, low, close, np.ones(n))


def make_signals(seed: int, klines: KlineColumns, low: float, rests: bool) -> Signals:
    random, n = np.random.default_rng(seed + 1), len(klines)
    target = random.choice([np.nan, np.nan, low, 0.0, 0.5, 1.0], n)
    price = np.where(random.random(n) < 0.3, klines.close * random.uniform(0.97, 1.03, n), np.nan) if rests else None
    return Signals(target, limit_price=price)


EXECUTIONS = st.fixed_dictionaries(
    {
        "fill_timing": st.sampled_from(["NEXT_OPEN", "THIS_CLOSE"]),
        "rebalance": st.sampled_from(["ON_CHANGE", "EVERY_KLINE"]),
        "reentry": st.sampled_from(["AFTER_CHANGE", "NEXT_DECISION"]),
        "intrabar_policy": st.sampled_from(["STOP_FIRST", "TARGET_FIRST", "NEAREST_FIRST"]),
        "gap_policy": st.sampled_from(["AT_OPEN", "AT_LEVEL"]),
        "touch_rule": st.sampled_from(["INCLUSIVE", "STRICT"]),
        "protect_from": st.sampled_from(["ENTRY_KLINE", "NEXT_KLINE"]),
        "taker_fee_bps": st.sampled_from([0.0, 10.0, 100.0]),
        "fixed_fee": st.sampled_from([0.0, 1.0]),
        "slippage_bps": st.sampled_from([0.0, 5.0]),
        "step_size": st.sampled_from([0.0, 0.5]),
        "min_notional": st.sampled_from([0.0, 64.0]),
        "stop_loss": st.sampled_from([None, 0.03]),
        "take_profit": st.sampled_from([None, 0.04]),
        "trailing_stop": st.sampled_from([None, 0.05]),
        "order_klines": st.sampled_from([1, 4]),
    }
)
SEEDS = st.integers(0, 10_000)
SHORTS = st.booleans()
RUNS = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@RUNS
@given(SEEDS, EXECUTIONS, SHORTS, st.booleans())
def test_final_equity_is_cash_plus_profits(seed, fields, shorts, rests):
    klines = make_klines(seed, 120)
    signals = make_signals(seed, klines, -0.5 if shorts else 0.25, rests)
    outcome = simulate(klines, signals, ExecutionModel(**fields, allow_short=shorts))
    if outcome.ruined_at is None:
        largest = max(outcome.initial_cash, outcome.equity.max())
        assert abs(outcome.equity[-1] - outcome.initial_cash - outcome.trades["profit"].sum()) <= 1e-9 * largest
        assert shorts or outcome.cash >= 0


@RUNS
@given(SEEDS, EXECUTIONS, SHORTS, st.integers(1, 119), st.booleans())
def test_a_split_run_equals_the_whole_bit_for_bit(seed, fields, perpetual, cut, rests):
    klines = make_klines(seed, 120)
    signals = make_signals(seed, klines, -0.5 if perpetual else 0.25, rests)
    market = {"market_type": "LINEAR_PERPETUAL", "max_leverage": 3.0} if perpetual else {}
    execution = ExecutionModel(**fields, **market)
    stamps = HOUR_MS * np.arange(0, 120, 8)
    funding = FundingColumns(stamps, np.full(15, 1e-4), np.full(15, np.nan)) if perpetual else None
    whole = simulate(klines, signals, execution, funding=funding, interval_ms=HOUR_MS)

    def part(start, stop, state=None):
        columns = {"limit_price": signals.limit_price[start:stop]} if rests else {}
        cut_signals = Signals(signals.target_exposure[start:stop], **columns)
        cut_klines = klines.slice(start, stop)
        return simulate(cut_klines, cut_signals, execution, funding=funding, state=state, interval_ms=HOUR_MS)

    first = part(0, cut)
    second = part(cut, 120, EngineState.from_bytes(first.state.to_bytes()))
    assert np.array_equal(np.concatenate([first.equity, second.equity]), whole.equity)
    assert np.concatenate([first.fills, second.fills]).tobytes() == whole.fills.tobytes()
    closed = first.trades[first.trades["exit_index"] >= 0]
    assert np.concatenate([closed, second.trades]).tobytes() == whole.trades.tobytes()
    assert second.bounds == whole.bounds
    assert second.state.records == whole.state.records


@RUNS
@given(SEEDS, EXECUTIONS, st.integers(-8, 8))
def test_a_power_of_two_scales_money_and_nothing_else(seed, fields, exponent):
    scale = 2.0**exponent
    klines = make_klines(seed, 80)
    scaled = KlineColumns(
        klines.open_time_ms, *(getattr(klines, p) * scale for p in ("open", "high", "low", "close")), klines.volume
    )
    signals = make_signals(seed, klines, 0.25, False)
    larger = fields | {"fixed_fee": fields["fixed_fee"] * scale, "min_notional": fields["min_notional"] * scale}
    one = simulate(klines, signals, ExecutionModel(**fields), 1000.0)
    other = simulate(scaled, signals, ExecutionModel(**larger), 1000.0 * scale)
    assert np.array_equal(one.equity * scale, other.equity)
    assert np.array_equal(one.fills["quantity"], other.fills["quantity"])


@RUNS
@given(SEEDS, st.lists(st.integers(0, 130), max_size=6))
def test_advancing_in_slices_changes_nothing(seed, stops):
    klines = make_klines(seed, 120)
    signals = make_signals(seed, klines, 0.25, True)
    execution = ExecutionModel(stop_loss=0.03, take_profit=0.04)
    run = Simulation(klines, signals, execution)
    for stop in stops:
        run.advance(stop)
    whole, sliced = simulate(klines, signals, execution), run.finish()
    assert np.array_equal(whole.equity, sliced.equity)
    assert whole.fills.tobytes() == sliced.fills.tobytes()


@RUNS
@given(SEEDS, st.sampled_from([(0.0, 5.0), (5.0, 30.0), (30.0, 100.0)]))
def test_higher_fees_never_help(seed, fees):
    klines = make_klines(seed, 100)
    target = np.random.default_rng(seed).choice([np.nan, 0.0, 1.0, 2.0], 100)
    finals = [
        simulate(klines, Signals(target), ExecutionModel(target_unit="QUANTITY", taker_fee_bps=fee)).equity[-1]
        for fee in fees
    ]
    assert finals[1] <= finals[0]


@RUNS
@given(SEEDS, EXECUTIONS)
def test_bounds_are_the_returns_under_both_policies(seed, fields):
    klines = make_klines(seed, 120)
    signals = make_signals(seed, klines, 0.25, False)
    outcome = simulate(klines, signals, ExecutionModel(**fields))
    for policy, bound in zip(("STOP_FIRST", "TARGET_FIRST"), outcome.bounds, strict=True):
        under = simulate(klines, signals, ExecutionModel(**(fields | {"intrabar_policy": policy})))
        assert under.equity[-1] / under.initial_cash - 1 == bound
