"""Leverage, funding, margin and liquidation of linear perpetuals."""

from __future__ import annotations

import numpy as np
import pytest

from klinecast.types import FillReason
from services.backtest.engine import EngineError, FundingColumns

NAN = float("nan")
HOUR = 3_600_000
PERPETUAL = {"market_type": "LINEAR_PERPETUAL", "missing_funding": "ZERO"}


def funding(*records):
    times, rates, marks = zip(*records, strict=True)
    return FundingColumns(np.array(times), np.array(rates), np.array(marks, float))


def test_leverage_borrows_cash(run):
    outcome = run([100, 100, 110], [3, NAN, NAN], max_leverage=3, **PERPETUAL)
    assert (outcome.quantity, outcome.cash) == (30.0, -2000.0)
    assert outcome.equity[-1] == 1300.0


def test_leverage_is_cut_after_fees(run):
    outcome = run([100, 100, 100], [3, NAN, NAN], max_leverage=3, taker_fee_bps=100, **PERPETUAL)
    assert outcome.quantity * 100 == pytest.approx(3 * outcome.equity[-1], rel=1e-12)


def test_funding_at_the_open_is_paid_on_the_quantity_carried_in(run):
    paid = funding((1 * HOUR, 0.01, NAN), (2 * HOUR, 0.01, 120.0))
    outcome = run([100, 100, 110], [1, NAN, NAN], funding=paid, **PERPETUAL)
    assert outcome.total_funding == pytest.approx(10 * 120 * 0.01)
    assert outcome.trades["funding"][0] == outcome.total_funding


def test_funding_inside_a_kline_is_paid_on_the_quantity_now_held(run):
    outcome = run([100, 100, 110], [1, NAN, NAN], funding=funding((HOUR + 5, 0.01, NAN)), **PERPETUAL)
    assert outcome.total_funding == pytest.approx(10 * 100 * 0.01)


def test_a_missing_funding_record_fails_unless_taken_as_zero(run):
    with pytest.raises(EngineError, match="MISSING_FUNDING"):
        run([100] * 10, [1] * 10, market_type="LINEAR_PERPETUAL")
    assert run([100] * 10, [1] * 10, **PERPETUAL).missing_funding == 2


def test_isolated_liquidation_of_a_long(run):
    rows = [(100,) * 4, (100,) * 4, (100, 100, 70, 95), (95,) * 4]
    outcome = run(rows, [1, NAN, NAN, NAN], max_leverage=5, **PERPETUAL)
    fill = outcome.fills[1]
    assert fill["reason"] == FillReason.LIQUIDATION
    assert fill["price"] == pytest.approx(100 * (1 - 1 / 5) / (1 - 0.005))
    margin_left = 10 * 100 / 5 + 10 * (fill["price"] - 100)
    assert fill["fee"] == pytest.approx(min(10 * fill["price"] * 0.01, margin_left))


def test_a_gap_beyond_bankruptcy_fills_at_bankruptcy(run):
    rows = [(100,) * 4, (100,) * 4, (70, 72, 65, 66), (66,) * 4]
    fill = run(rows, [1, NAN, NAN, NAN], max_leverage=5, **PERPETUAL).fills[1]
    assert (fill["price"], fill["fee"]) == (pytest.approx(80.0), 0.0)


def test_cross_margin_is_all_cash(run):
    rows = [(100,) * 4, (100,) * 4, (100, 130, 100, 100), (100,) * 4]
    fields = {"max_leverage": 5, "margin_mode": "CROSS", **PERPETUAL}
    outcome = run(rows, [-5, NAN, NAN, NAN], **fields)
    assert outcome.fills["price"][1] == pytest.approx(6000 / (50 * 1.005))


def test_a_nearer_stop_comes_before_liquidation(run):
    rows = [(100,) * 4, (100,) * 4, (100, 100, 70, 95), (95,) * 4]
    outcome = run(rows, [1, NAN, NAN, NAN], max_leverage=5, stop_loss=0.1, **PERPETUAL)
    assert outcome.fills["reason"][1] == FillReason.STOP_LOSS
