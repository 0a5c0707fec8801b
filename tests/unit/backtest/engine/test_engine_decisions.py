"""Small print of decisions: what a late opening, a repeated price and a moved entry mean."""

from __future__ import annotations

import numpy as np
import pytest

from klinecast.types import FillReason

NAN = float("nan")


def fills(outcome) -> list[tuple[int, str, float, float]]:
    return [
        (int(f["kline_index"]), FillReason(f["reason"]).name, float(f["side"] * f["quantity"]), float(f["price"]))
        for f in outcome.fills
    ]


def test_a_position_opened_late_has_the_distances_of_its_decision(run):
    rows = [10, 10, 20, (20, 20, 15, 15), 15]
    stops = {"stop_loss": np.array([0.2, NAN, NAN, NAN, NAN])}
    outcome = run(
        rows, [1, NAN, NAN, NAN, NAN], columns=stops, target_unit="QUANTITY", rebalance="EVERY_KLINE", min_notional=15
    )
    assert fills(outcome) == [(2, "SIGNAL", 1, 20), (3, "STOP_LOSS", -1, 16)]


def test_the_average_cost_of_equal_prices_is_that_price(run):
    rows = [75, 75, 75, (75, 75, 74.25, 74.5), 75]
    outcome = run(rows, [0.1, 1.2, NAN, NAN, NAN], target_unit="QUANTITY", stop_loss=0.01)
    assert fills(outcome)[-1] == (3, "STOP_LOSS", -1.2, 74.25)


def test_millions_of_steps_lose_none(run):
    outcome = run([1, 1, 1], [15094.3, NAN, NAN], target_unit="QUANTITY", step_size=0.001, initial_cash=1e6)
    assert outcome.quantity == pytest.approx(15094.3, rel=1e-12)
    outcome = run([1.08] * 3, [135_000, NAN, NAN], target_unit="NOTIONAL", step_size=0.001, initial_cash=1e6)
    assert outcome.quantity == pytest.approx(125_000, rel=1e-12)


def test_moving_a_resting_price_trades_nothing_at_the_market(run):
    limits = {"limit_price": np.array([NAN, 70, 60, NAN, NAN])}
    outcome = run(
        [100, 100, 100, 210, 210], [200, 400, 400, NAN, NAN], columns=limits, target_unit="NOTIONAL", order_klines=5
    )
    assert fills(outcome) == [(1, "SIGNAL", 2, 100)]
    reached = run(
        [100, 100, 100, (100, 100, 50, 90), 90], [200, 400, 400, NAN, NAN], columns=limits, target_unit="NOTIONAL",
        order_klines=5,
    )  # fmt: skip
    assert fills(reached)[1][:2] == (3, "SIGNAL")
    assert fills(reached)[1][3] == 60
