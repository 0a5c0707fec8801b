"""Several series: from separate accounts, side by side; or from one, where they share its cash."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backtest.engine import (
    EngineError,
    ExecutionModel,
    FundingColumns,
    KlineColumns,
    Signals,
    combine,
    simulate,
    simulate_shared,
)

NAN = float("nan")
HOUR = 3_600_000


def rows(*closes: float, start: int = 0) -> KlineColumns:
    """Return klines without a range: open = high = low = close."""
    prices = np.array(closes, float)
    return KlineColumns(HOUR * (start + np.arange(len(prices))), prices, prices, prices, prices, np.ones(len(prices)))


def walk(seed: int, count: int = 70, *, missing: float = 0.0) -> KlineColumns:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.03, count)))
    opening = np.append(100.0, close[:-1]) * (1 + random.normal(0, 0.01, count))
    high, low = np.maximum(opening, close) * 1.01, np.minimum(opening, close) * 0.99
    kept = random.random(count) >= missing
    kept[0] = True
    columns = [column[kept] for column in (HOUR * np.arange(count), opening, high, low, close, np.ones(count))]
    return KlineColumns(*columns)


def decisions(seed: int, klines: KlineColumns, *, shorts: bool, largest: float = 1.0) -> Signals:
    random = np.random.default_rng(seed + 1)
    count = len(klines)
    target = np.round(random.uniform(-largest if shorts else 0, largest, count), 1)
    target[random.random(count) < 0.6] = NAN
    stop = np.where(random.random(count) < 0.5, random.uniform(0.01, 0.08, count), NAN)
    resting = np.where(random.random(count) < 0.2, klines.close * 0.99, NAN)
    return Signals(target, stop_loss=stop, take_profit=stop * 2, limit_price=resting)


MODELS = {
    "timing": st.sampled_from(["NEXT_OPEN", "THIS_CLOSE"]),
    "rebalance": st.sampled_from(["ON_CHANGE", "EVERY_KLINE"]),
    "policy": st.sampled_from(["STOP_FIRST", "TARGET_FIRST"]),
    "market": st.sampled_from(["SPOT", "LINEAR_PERPETUAL"]),
    "end": st.booleans(),
}


def make_model(timing, rebalance, policy, market, end) -> ExecutionModel:
    return ExecutionModel(
        market_type=market, fill_timing=timing, rebalance=rebalance, intrabar_policy=policy, close_at_end=end,
        allow_short=market != "SPOT", max_leverage=1.0 if market == "SPOT" else 3.0, slippage_bps=5, fixed_fee=0.5,
    )  # fmt: skip


def make_funding(klines: KlineColumns, model: ExecutionModel) -> FundingColumns | None:
    if model.market_type == "SPOT":
        return None
    times = np.arange(0, int(klines.open_time_ms[-1]) + HOUR, 8 * HOUR)
    return FundingColumns(times, np.full(len(times), 1e-4), np.full(len(times), NAN))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), **MODELS)
def test_one_series_from_a_shared_account_is_a_run_of_its_own_bit_for_bit(seed, **model):
    execution, klines = make_model(**model), walk(seed, missing=0.1)
    signals = decisions(seed, klines, shorts=execution.shorts_allowed)
    funding = make_funding(klines, execution)
    alone = simulate(klines, signals, execution, funding=funding, interval_ms=HOUR)
    shared = simulate_shared([klines], [signals], execution, funding=[funding], interval_ms=HOUR)
    assert shared.equity.tobytes() == alone.equity.tobytes()
    assert shared.outcomes[0].fills.tobytes() == alone.fills.tobytes()
    assert shared.outcomes[0].trades.tobytes() == alone.trades.tobytes()
    assert shared.bounds == alone.bounds
    assert shared.outcomes[0].cash == alone.cash
    assert shared.outcomes[0].pending_target == alone.pending_target


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 5), **MODELS)
def test_the_money_of_a_shared_account_adds_up(seed, count, **model):
    execution = make_model(**model)
    klines = [walk(seed + 100 * one, missing=0.2) for one in range(count)]
    signals = [decisions(seed + one, k, shorts=execution.shorts_allowed) for one, k in enumerate(klines)]
    funding = [make_funding(one, execution) for one in klines]
    done = simulate_shared(klines, signals, execution, funding=funding, interval_ms=HOUR)
    profit = sum(one.trades["profit"].sum() for one in done.outcomes)
    if done.ruined_at is None and not any(5 in one.fills["reason"] for one in done.outcomes):
        assert done.equity[-1] == pytest.approx(done.initial_cash + profit, abs=1e-9 * max(1e4, done.equity.max()))
    assert np.all(done.gross >= 0)
    if execution.market_type == "SPOT":
        assert done.outcomes[0].cash >= 0
        assert np.all((done.gross <= done.equity * (1 + 1e-9))[:-1])  # close_at_end costs a fee after the last close
    assert np.array_equal(done.open_time_ms, np.unique(np.concatenate([one.open_time_ms for one in klines])))


def test_reductions_come_first_and_increases_in_the_order_of_the_series():
    klines = [rows(100, 100, 100, 100), rows(50, 50, 50, 50)]
    signals = [Signals(np.array([NAN, 1, NAN, NAN])), Signals(np.array([1.0, 0, NAN, NAN]))]
    done = simulate_shared(klines, signals, ExecutionModel(taker_fee_bps=0), 1000.0)
    first, second = (one.fills for one in done.outcomes)
    assert [(f["kline_index"], f["side"], f["quantity"]) for f in second] == [(1, 1, 20.0), (2, -1, 20.0)]
    assert [(f["kline_index"], f["side"], f["quantity"]) for f in first] == [(2, 1, 10.0)]


def test_cash_goes_to_the_first_series_where_it_does_not_suffice_for_all():
    klines = [rows(100, 100, 100), rows(50, 50, 50)]
    signals = [Signals(np.array([0.7, NAN, NAN])), Signals(np.array([0.7, NAN, NAN]))]
    done = simulate_shared(klines, signals, ExecutionModel(taker_fee_bps=0), 1000.0)
    assert [one.fills["quantity"][0] for one in done.outcomes] == [7.0, 6.0]
    assert done.outcomes[0].cash == 0.0
    turned = simulate_shared(klines[::-1], signals[::-1], ExecutionModel(taker_fee_bps=0), 1000.0)
    assert [one.fills["quantity"][0] for one in turned.outcomes] == [14.0, 3.0]


def test_an_order_is_sized_on_the_equity_of_the_whole_account():
    klines = [rows(100, 100, 200, 200), rows(50, 50, 50, 50)]
    signals = [Signals(np.array([0.5, NAN, NAN, NAN])), Signals(np.array([NAN, 0.25, NAN, NAN]))]
    done = simulate_shared(klines, signals, ExecutionModel(taker_fee_bps=0), 1000.0)
    assert done.outcomes[0].fills["quantity"][0] == 5.0
    assert done.outcomes[1].fills["quantity"][0] == pytest.approx(0.25 * (500 + 5 * 200) / 50)
    assert list(done.equity) == pytest.approx([1000, 1000, 1500, 1500])
    assert list(done.gross) == pytest.approx([0, 500, 1375, 1375])


def test_a_series_without_a_kline_counts_at_its_last_close():
    klines = [rows(100, 100, 120), rows(50, 50, start=2)]
    signals = [Signals(np.array([1.0, NAN, NAN])), Signals(np.array([NAN, NAN]))]
    done = simulate_shared(klines, signals, ExecutionModel(taker_fee_bps=0), 1000.0)
    assert list(done.open_time_ms // HOUR) == [0, 1, 2, 3]
    assert list(done.equity) == pytest.approx([1000, 1000, 1200, 1200])


def test_max_leverage_bounds_the_gross_value_of_all_positions():
    execution = ExecutionModel(market_type="LINEAR_PERPETUAL", max_leverage=2, taker_fee_bps=0, missing_funding="ZERO")
    klines = [rows(100, 100, 100), rows(50, 50, 50)]
    signals = [Signals(np.array([1.5, NAN, NAN])), Signals(np.array([-1.5, NAN, NAN]))]
    done = simulate_shared(klines, signals, execution, 1000.0)
    assert [one.fills["quantity"][0] for one in done.outcomes] == [15.0, 10.0]


def test_ruin_of_the_account_ends_every_position():
    execution = ExecutionModel(
        market_type="LINEAR_PERPETUAL",
        max_leverage=3,
        taker_fee_bps=0,
        missing_funding="ZERO",
        maintenance_margin_rate=0,
    )
    klines = [rows(100, 100, 68, 100), rows(50, 50, 34, 50)]
    signals = [Signals(np.array([1.5, NAN, NAN, NAN])), Signals(np.array([1.5, NAN, NAN, 1.0]))]
    done = simulate_shared(klines, signals, execution, 1000.0)
    assert list(done.equity) == pytest.approx([1000, 1000, 40, 1000])
    assert done.ruined_at is None
    deeper = [rows(100, 100, 60, 100), rows(50, 50, 30, 50)]
    gone = simulate_shared(deeper, signals, execution, 1000.0)
    assert (gone.ruined_at, list(gone.equity)) == (2, [1000, 1000, 0, 0])
    assert [one.fills["reason"][-1] for one in gone.outcomes] == [5, 5]
    assert [one.quantity for one in gone.outcomes] == [0, 0]


def test_a_fault_names_its_series():
    klines = [rows(100, 100), rows(50, 50)]
    with pytest.raises(EngineError, match="series 1: the target exceeds max_leverage") as caught:
        simulate_shared(klines, [Signals(np.zeros(2)), Signals(np.array([0.0, 2.0]))], ExecutionModel())
    assert caught.value.kline_index == 1
    with pytest.raises(EngineError, match="CROSS"):
        simulate_shared(
            klines,
            [Signals(np.zeros(2))] * 2,
            ExecutionModel(market_type="LINEAR_PERPETUAL", margin_mode="CROSS", missing_funding="ZERO"),
        )


def test_separate_accounts_side_by_side():
    klines = [rows(100, 100, 120), rows(50, 50, start=2)]
    execution = ExecutionModel(taker_fee_bps=0, fill_timing="THIS_CLOSE")
    outcomes = [simulate(one, Signals(np.array([1.0, *[NAN] * (len(one) - 1)])), execution, 500.0) for one in klines]
    done = combine(klines, outcomes)
    assert done.initial_cash == 1000.0
    assert list(done.equity) == pytest.approx([1000, 1000, 1100, 1100])
    assert list(done.gross) == pytest.approx([500, 500, 1100, 1100])
    assert list(done.held_index) == pytest.approx([1, 1, 1.1, 1.1])
    assert done.bounds == pytest.approx((0.1, 0.1))
