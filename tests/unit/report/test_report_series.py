"""Thinning keeps what a curve is read for; bins and months add up."""

import numpy as np
import pytest

from klinecast.report.series import (
    MAX_BINS,
    compute_drawdown,
    compute_histogram,
    compute_monthly_returns,
    compute_trade_returns,
    pick_for_all,
    pick_points,
)
from tests.reports import CASH, make_equity, make_trades


@pytest.mark.parametrize("count", [0, 1, 2, 1_999, 2_000, 2_001, 2_003, 10_007, 525_600])
def test_thinning_is_bounded_and_keeps_both_ends_and_both_extremes(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=count).cumsum()
    picked = pick_points(values, 2_000)
    assert len(picked) <= min(count, 2_000)
    assert (np.diff(picked) > 0).all()
    if count:
        assert {0, count - 1, values.argmin(), values.argmax()} <= set(picked.tolist())


def test_thinning_keeps_a_single_spike() -> None:
    values = np.zeros(100_000)
    values[54_321], values[54_322] = 1.0, -1.0
    assert {54_321, 54_322} <= set(pick_points(values, 200).tolist())


def test_a_short_curve_is_kept_whole() -> None:
    assert pick_points(np.arange(10.0)).tolist() == list(range(10))


def test_curves_that_share_their_times_share_the_bound(seed: int) -> None:
    curves = list(np.random.default_rng(seed).normal(size=(3, 50_000)).cumsum(axis=1))
    picked = pick_for_all(curves, 2_000)
    assert len(picked) <= 2_000
    assert {one.argmin() for one in curves} | {one.argmax() for one in curves} <= set(picked.tolist())


def test_drawdown_starts_at_the_start_money() -> None:
    assert compute_drawdown(np.array([90.0, 110.0, 99.0]), 100.0) == pytest.approx([-0.1, 0.0, -0.1])


def test_months_compound_to_the_total_return(seed: int) -> None:
    columns = make_equity(seed=seed)
    months = compute_monthly_returns(columns["open_time_ms"], columns["equity"], CASH)
    assert list(months) == [f"2025-{month:02d}" for month in range(1, 13)]
    assert np.prod([1 + one for one in months.values()]) == pytest.approx(columns["equity"][-1] / CASH)


def test_trade_returns_leave_open_trades_out() -> None:
    trades = make_trades(3)
    trades["exit_time_ms"][-1] = -1
    expected = trades["profit"][:2] / (trades["quantity"][:2] * trades["entry_price"][:2])
    assert compute_trade_returns(trades) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2, 7, 199, 200, 5_000, 300_000])
@pytest.mark.parametrize("scale", [1e-7, 0.01, 30.0])
def test_bins_are_few_and_count_every_value_once(count: int, scale: float, seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(2, count) * scale
    found = compute_histogram(values)
    assert len(found.centers) == len(found.counts) <= MAX_BINS
    assert found.counts.sum() == count
    assert found.beyond <= 0.011 * count
    if not found.beyond:
        assert found.counts[found.centers > 0].sum() == np.count_nonzero(values >= 0)


def test_bins_of_equal_and_of_no_values() -> None:
    assert compute_histogram(np.full(50, 0.02)).counts.sum() == 50
    assert len(compute_histogram(np.empty(0)).counts) == 0
