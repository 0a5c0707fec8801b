"""When and how decisions fill: timing, prices, fees, sizes."""

from __future__ import annotations

import numpy as np
import pytest

from klinecast.types import FillReason

NAN = float("nan")
ROWS = [(10, 11, 9, 10), (11, 12, 10, 12), (12, 14, 11, 13), (14, 15, 13, 15)]


def test_a_decision_fills_at_the_next_open(run):
    outcome = run(ROWS, [1, NAN, 0, NAN])
    assert outcome.fills[["kline_index", "side", "price"]].tolist() == [(1, 1, 11.0), (3, -1, 14.0)]
    assert outcome.equity[-1] == pytest.approx(1000 * 14 / 11)


def test_this_close_fills_at_the_close_of_the_deciding_kline(run):
    outcome = run(ROWS, [1, NAN, 0, NAN], fill_timing="THIS_CLOSE")
    assert outcome.fills[["kline_index", "price"]].tolist() == [(0, 10.0), (2, 13.0)]


def test_the_last_decision_is_pending_under_next_open_only(run):
    assert run(ROWS, [NAN, NAN, NAN, 1]).pending_target == 1.0
    assert len(run(ROWS, [NAN, NAN, NAN, 1]).fills) == 0
    assert run(ROWS, [1, NAN, NAN, NAN]).pending_target is None
    assert run(ROWS, [NAN, NAN, NAN, 1], fill_timing="THIS_CLOSE").pending_target is None


def test_slippage_worsens_both_sides(run):
    outcome = run(ROWS, [1, NAN, 0, NAN], slippage_bps=100)
    assert outcome.fills["price"].tolist() == [pytest.approx(11 * 1.01), pytest.approx(14 * 0.99)]
    assert outcome.total_slippage == pytest.approx((11 + 14) * 0.01 * outcome.fills["quantity"][0])


def test_fees_are_a_share_of_notional_and_a_fixed_part(run):
    outcome = run(ROWS, [1, NAN, 0, NAN], target_unit="QUANTITY", taker_fee_bps=100, fixed_fee=2.0)
    assert outcome.fills["fee"].tolist() == [pytest.approx(11 * 0.01 + 2), pytest.approx(14 * 0.01 + 2)]
    assert outcome.trades["profit"][0] == pytest.approx(14 - 11 - 0.25 - 4)


def test_all_in_leaves_exactly_no_cash(run):
    outcome = run(ROWS, [1, NAN, NAN, NAN], taker_fee_bps=7, fixed_fee=0.3, slippage_bps=3)
    assert outcome.cash == 0.0
    paid = outcome.fills["quantity"][0] * outcome.fills["price"][0] + outcome.fills["fee"][0]
    assert paid == pytest.approx(1000, rel=1e-14)


@pytest.mark.parametrize(
    ("unit", "target", "quantity"), [("EXPOSURE", 0.5, 500 / 11), ("QUANTITY", 3.0, 3.0), ("NOTIONAL", 110.0, 10.0)]
)
def test_target_units_size_the_order(run, unit, target, quantity):
    assert run(ROWS, [target, NAN, NAN, NAN], target_unit=unit).quantity == pytest.approx(quantity)


def test_quantity_beyond_cash_is_cut_to_what_cash_pays(run):
    assert run(ROWS, [1e6, NAN, NAN, NAN], target_unit="QUANTITY").quantity == pytest.approx(1000 / 11)


def test_step_size_rounds_down_but_not_a_multiple_in_floating_point(run):
    assert run(ROWS, [1, NAN, NAN, NAN], step_size=4).quantity == 88
    assert run(ROWS, [0.3, NAN, NAN, NAN], target_unit="QUANTITY", step_size=0.1).quantity == pytest.approx(0.3)


def test_orders_below_min_notional_are_skipped_and_count_as_acted_on(run):
    outcome = run(ROWS, [0.05, 0.05, 1, NAN], min_notional=100)
    assert outcome.fills["kline_index"].tolist() == [3]


def test_a_close_to_flat_ignores_step_and_min_notional(run):
    rows = [10, 10, 10, 0.1]
    outcome = run(rows, [1, NAN, 0, NAN], step_size=7, min_notional=50)
    assert outcome.fills["quantity"].tolist() == [98.0, 98.0]
    assert outcome.quantity == 0.0


def test_on_change_lets_a_position_drift(run):
    assert len(run(ROWS, [0.5, 0.5, 0.5, 0.5]).fills) == 1


def test_every_kline_rebalances_beyond_its_tolerance(run):
    assert len(run(ROWS, [0.5, NAN, NAN, NAN], rebalance="EVERY_KLINE").fills) == 3
    assert len(run(ROWS, [0.5, NAN, NAN, NAN], rebalance="EVERY_KLINE", rebalance_tolerance=0.04).fills) == 2


def test_a_reversal_is_two_fills_at_one_price(run):
    outcome = run([10, 10, 20, 20], [1, -1, NAN, NAN], allow_short=True)
    assert outcome.fills[["side", "quantity", "price"]].tolist() == [(1, 100, 10), (-1, 100, 20), (-1, 100, 20)]
    assert outcome.trades["side"].tolist() == [1, -1]
    assert outcome.quantity == -100


def test_a_short_gains_when_prices_fall(run):
    outcome = run([10, 10, 5, 5], [-1, NAN, 0, NAN], allow_short=True)
    assert outcome.equity.tolist() == [1000, 1000, 1500, 1500]
    assert outcome.trades["profit"].tolist() == [500]


def test_a_reduction_sells_what_is_too_much(run):
    outcome = run([10, 10, 10, 20], [8, NAN, 3, NAN], target_unit="QUANTITY")
    assert outcome.fills["quantity"].tolist() == [8, 5]
    trade = outcome.trades[0]
    assert (trade["exit_index"], trade["quantity"], trade["exit_price"]) == (-1, 8, 20)
    assert trade["profit"] == pytest.approx(8 * 10)


def test_close_at_end_closes_after_the_state_is_taken(run):
    outcome = run(ROWS, [1, NAN, NAN, NAN], close_at_end=True, taker_fee_bps=100)
    assert outcome.fills["reason"].tolist() == [FillReason.SIGNAL, FillReason.END]
    assert outcome.quantity == 0.0
    assert outcome.cash == outcome.equity[-1]
    assert outcome.state.record()["quantity"][0] > 0


def test_the_open_trade_is_the_last_row(run):
    trade = run(ROWS, [1, NAN, NAN, NAN]).trades[-1]
    assert (trade["entry_index"], trade["exit_index"], trade["exit_reason"]) == (1, -1, 0)
    assert trade["exit_price"] == pytest.approx(15)


def test_ruin_closes_at_the_price_and_ends_all_trading(run):
    outcome = run([10, 10, 25, 5, 5], [-1, NAN, 1, 0, 1], allow_short=True)
    assert outcome.ruined_at == 2
    assert outcome.equity.tolist() == [1000, 1000, 0, 0, 0]
    assert outcome.fills["reason"].tolist() == [FillReason.SIGNAL, FillReason.LIQUIDATION]
    assert outcome.pending_target is None


def test_a_zero_target_trades_nothing(run):
    outcome = run(ROWS, np.zeros(4), taker_fee_bps=10)
    assert len(outcome.fills) == 0
    assert outcome.equity.tolist() == [1000] * 4


def test_a_reduction_that_cannot_pay_its_fee_is_skipped(run):
    outcome = run([10, 10, 10], [100, 90, NAN], fill_timing="THIS_CLOSE", target_unit="QUANTITY", fixed_fee=1000.0,
                  initial_cash=2100.0)  # fmt: skip
    assert outcome.cash == 100.0
    assert outcome.quantity == 100.0
    assert len(outcome.fills) == 1
