"""Entries that rest as limit or stop orders."""

from __future__ import annotations

import numpy as np
import pytest

NAN = float("nan")


def limit(*prices):
    return {"limit_price": np.array(prices, float)}


def stop(*prices):
    return {"stop_price": np.array(prices, float)}


def test_a_buy_limit_fills_at_its_price_with_the_maker_fee(run):
    rows = [(100,) * 4, (100, 101, 94, 100), (100,) * 4]
    outcome = run(rows, [1, NAN, NAN], columns=limit(95, NAN, NAN), maker_fee_bps=50, slippage_bps=100)
    assert outcome.fills[["kline_index", "price"]].tolist() == [(1, 95.0)]
    assert outcome.fills["fee"][0] == pytest.approx(outcome.fills["quantity"][0] * 95 * 0.005)


@pytest.mark.parametrize(("policy", "price"), [("AT_OPEN", 90.0), ("AT_LEVEL", 95.0)])
def test_a_buy_limit_below_whose_price_the_kline_opens(run, policy, price):
    rows = [(100,) * 4, (90, 96, 89, 91), (91,) * 4]
    outcome = run(rows, [1, NAN, NAN], columns=limit(95, NAN, NAN), gap_policy=policy)
    assert outcome.fills["price"][0] == price


def test_a_buy_stop_fills_with_slippage_at_the_worse_of_level_and_open(run):
    rows = [(100,) * 4, (100, 106, 99, 103), (103,) * 4]
    outcome = run(rows, [1, NAN, NAN], columns=stop(105, NAN, NAN), slippage_bps=100)
    assert outcome.fills["price"][0] == pytest.approx(105 * 1.01)
    gapped = [(100,) * 4, (110, 112, 109, 111), (111,) * 4]
    assert run(gapped, [1, NAN, NAN], columns=stop(105, NAN, NAN)).fills["price"][0] == 110.0


def test_a_sell_limit_opens_a_short(run):
    rows = [(100,) * 4, (100, 106, 99, 103), (103,) * 4]
    outcome = run(rows, [-1, NAN, NAN], columns=limit(105, NAN, NAN), allow_short=True)
    assert outcome.fills[["side", "price"]].tolist() == [(-1, 105.0)]


def test_an_entry_rests_for_order_klines(run):
    rows = [(100,) * 4, (100, 101, 99, 100), (100, 101, 94, 100), (100,) * 4]
    assert len(run(rows, [1, NAN, NAN, NAN], columns=limit(95, NAN, NAN, NAN)).fills) == 0
    outcome = run(rows, [1, NAN, NAN, NAN], columns=limit(95, NAN, NAN, NAN), order_klines=2)
    assert outcome.fills["kline_index"].tolist() == [2]


def test_a_differing_decision_takes_the_entry_away(run):
    rows = [(100,) * 4, (100,) * 4, (100, 101, 94, 100), (100,) * 4]
    assert len(run(rows, [1, 0, NAN, NAN], columns=limit(95, NAN, NAN, NAN), order_klines=5).fills) == 0


def test_under_this_close_it_rests_from_the_next_kline_too(run):
    rows = [(100, 100, 90, 100), (100, 101, 94, 100), (100,) * 4]
    outcome = run(rows, [1, NAN, NAN], columns=limit(95, NAN, NAN), fill_timing="THIS_CLOSE")
    assert outcome.fills["kline_index"].tolist() == [1]


def test_closing_is_a_market_order_even_with_a_limit_price(run):
    rows = [(100,) * 4] * 4
    outcome = run(rows, [1, 0, NAN, NAN], columns=limit(NAN, 200, NAN, NAN))
    assert outcome.fills[["kline_index", "side", "price"]].tolist() == [(1, 1, 100.0), (2, -1, 100.0)]


def test_the_opening_half_of_a_reversal_rests(run):
    rows = [(100,) * 4, (100,) * 4, (100, 111, 100, 100), (100,) * 4]
    outcome = run(rows, [1, -1, NAN, NAN], columns=limit(NAN, 110, NAN, NAN), allow_short=True)
    assert outcome.fills[["kline_index", "price"]].tolist() == [(1, 100.0), (2, 100.0), (2, 110.0)]


def test_protection_of_an_entry_inside_a_kline_starts_with_the_next(run):
    rows = [(100,) * 4, (100, 101, 80, 100), (100, 101, 90, 100), (100,) * 4]
    outcome = run(rows, [1, NAN, NAN, NAN], columns=limit(95, NAN, NAN, NAN), stop_loss=0.05)
    assert outcome.fills["kline_index"].tolist() == [1, 2]
