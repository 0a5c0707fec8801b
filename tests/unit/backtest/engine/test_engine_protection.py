"""Stops, targets, trailing stops, gaps, and what happens after an exit."""

from __future__ import annotations

import numpy as np
import pytest

from klinecast.types import FillReason
from services.backtest.engine import KlineColumns

NAN = float("nan")
HOLD = [1, NAN, NAN, NAN]
ENTRY = [(100, 100, 100, 100), (100, 101, 99, 100)]


def exit_of(outcome):
    fill = outcome.fills[1]
    return int(fill["kline_index"]), float(fill["price"]), FillReason(fill["reason"])


def test_a_stop_fills_at_its_level(run):
    outcome = run([*ENTRY, (100, 102, 94, 96), (96,) * 4], HOLD, stop_loss=0.05)
    assert exit_of(outcome) == (2, 95.0, FillReason.STOP_LOSS)


def test_a_target_fills_at_its_level_without_slippage_and_with_the_maker_fee(run):
    rows = [*ENTRY, (100, 112, 99, 105), (105,) * 4]
    outcome = run(rows, HOLD, take_profit=0.1, maker_fee_bps=50)
    assert exit_of(outcome) == (2, pytest.approx(110.0), FillReason.TAKE_PROFIT)
    assert outcome.fills["fee"][1] == pytest.approx(outcome.fills["quantity"][1] * 110 * 0.005)


def test_a_stop_pays_slippage(run):
    outcome = run([*ENTRY, (100, 102, 90, 96), (96,) * 4], HOLD, stop_loss=0.05, slippage_bps=100)
    assert outcome.fills["price"][1] == pytest.approx(100 * 1.01 * 0.95 * 0.99)


def test_shorts_are_mirrored(run):
    rows = [*ENTRY, (100, 106, 99, 101), (101,) * 4]
    outcome = run(rows, [-1, NAN, NAN, NAN], allow_short=True, stop_loss=0.05)
    assert exit_of(outcome) == (2, 105.0, FillReason.STOP_LOSS)


@pytest.mark.parametrize(("policy", "price"), [("AT_OPEN", 90.0), ("AT_LEVEL", 95.0)])
def test_gap_policy_says_where_a_gapped_stop_fills(run, policy, price):
    outcome = run([*ENTRY, (90, 97, 88, 91), (91,) * 4], HOLD, stop_loss=0.05, gap_policy=policy)
    assert outcome.fills["price"][1] == price
    assert outcome.ambiguous_klines == 0


def test_at_level_fills_at_the_open_when_the_whole_kline_is_beyond(run):
    outcome = run([*ENTRY, (90, 92, 88, 91), (91,) * 4], HOLD, stop_loss=0.05, gap_policy="AT_LEVEL")
    assert outcome.fills["price"][1] == 90.0


@pytest.mark.parametrize(("policy", "price"), [("AT_OPEN", 115.0), ("AT_LEVEL", 112.0)])
def test_a_gapped_target_gains(run, policy, price):
    outcome = run([*ENTRY, (115, 116, 112, 113), (113,) * 4], HOLD, take_profit=0.1, gap_policy=policy)
    assert outcome.fills["price"][1] == price


@pytest.mark.parametrize(("rule", "fills"), [("INCLUSIVE", 2), ("STRICT", 1)])
def test_touch_rule_decides_whether_reaching_is_enough(run, rule, fills):
    outcome = run([*ENTRY, (100, 101, 95, 100), (100,) * 4], HOLD, stop_loss=0.05, touch_rule=rule)
    assert len(outcome.fills) == fills


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("STOP_FIRST", FillReason.STOP_LOSS),
        ("TARGET_FIRST", FillReason.TAKE_PROFIT),
        ("NEAREST_FIRST", FillReason.TAKE_PROFIT),
    ],
)
def test_intrabar_policy_decides_an_ambiguous_kline(run, policy, reason):
    rows = [*ENTRY, (104, 111, 94, 100), (100,) * 4]
    outcome = run(rows, HOLD, stop_loss=0.05, take_profit=0.1, intrabar_policy=policy)
    assert exit_of(outcome)[2] is reason
    assert outcome.ambiguous_klines == 1
    assert outcome.bounds == (pytest.approx(-0.05), pytest.approx(0.1))


def test_nearest_first_prefers_the_stop_on_a_tie(run):
    rows = [*ENTRY, (100, 111, 89, 100), (100,) * 4]
    outcome = run(rows, HOLD, stop_loss=0.1, take_profit=0.1, intrabar_policy="NEAREST_FIRST")
    assert exit_of(outcome)[2] is FillReason.STOP_LOSS


def finer_klines(*rows):
    times = 2 * 3_600_000 + 900_000 * np.arange(len(rows))
    return KlineColumns(times, *np.array(rows, float).T, np.ones(len(rows)))


def test_finer_klines_resolve_what_came_first(run):
    finer = finer_klines((100, 111, 100, 105), (105, 105, 94, 100))
    rows = [*ENTRY, (100, 111, 94, 100), (100,) * 4]
    outcome = run(rows, HOLD, stop_loss=0.05, take_profit=0.1, finer=finer)
    assert exit_of(outcome) == (2, pytest.approx(110.0), FillReason.TAKE_PROFIT)
    assert (outcome.ambiguous_klines, outcome.resolved_klines) == (0, 1)


def test_finer_klines_that_do_not_cover_the_kline_are_not_used(run):
    rows = [*ENTRY, (100, 111, 94, 100), (100,) * 4]
    outcome = run(rows, HOLD, stop_loss=0.05, take_profit=0.1, finer=finer_klines((100, 111, 100, 105)))
    assert exit_of(outcome)[2] is FillReason.STOP_LOSS
    assert (outcome.ambiguous_klines, outcome.resolved_klines) == (1, 0)


@pytest.mark.parametrize(("start", "kline"), [("ENTRY_KLINE", 1), ("NEXT_KLINE", 2)])
def test_protect_from_says_whether_the_entry_kline_counts(run, start, kline):
    rows = [(100,) * 4, (100, 101, 94, 100), (100, 101, 94, 100), (100,) * 4]
    assert exit_of(run(rows, HOLD, stop_loss=0.05, protect_from=start))[0] == kline


def test_an_entry_at_the_close_is_protected_from_the_next_kline(run):
    rows = [(100, 100, 90, 100), (100, 101, 94, 100), (100,) * 4, (100,) * 4]
    assert exit_of(run(rows, HOLD, stop_loss=0.05, fill_timing="THIS_CLOSE"))[0] == 1


def test_a_trailing_stop_follows_highs_of_klines_that_are_over(run):
    rows = [(100,) * 4, (100, 120, 99, 118), (118, 119, 107, 110), (110,) * 4]
    outcome = run(rows, HOLD, trailing_stop=0.1)
    assert exit_of(outcome) == (2, 108.0, FillReason.TRAILING_STOP)


def test_the_entry_kline_of_an_entry_at_the_close_does_not_move_the_trailing_stop(run):
    rows = [(100, 150, 100, 100), (100, 101, 91, 100), (100, 100, 90.5, 95), (95,) * 4]
    assert exit_of(run(rows, HOLD, trailing_stop=0.1, fill_timing="THIS_CLOSE"))[:2] == (2, pytest.approx(90.9))


def test_of_stop_and_trailing_stop_the_tighter_counts(run):
    rows = [*ENTRY, (100, 100, 90, 95), (95,) * 4]
    assert exit_of(run(rows, HOLD, stop_loss=0.05, trailing_stop=0.08))[2] is FillReason.STOP_LOSS
    falling = [(100, 100, 90, 95)] * 4
    assert exit_of(run(falling, HOLD, stop_loss=0.05, trailing_stop=0.05))[2] is FillReason.STOP_LOSS


def test_after_an_exit_the_position_stays_flat_until_the_decision_changes(run):
    rows = [*ENTRY, (100, 100, 90, 95), (95,) * 4, (95,) * 4, (95,) * 4]
    assert len(run(rows, [1, 1, 1, 1, 1, 1], stop_loss=0.05).fills) == 2
    assert run(rows, [1, 1, 1, 0, 1, 1], stop_loss=0.05).fills["kline_index"].tolist() == [1, 2, 5]


def test_next_decision_reenters_with_the_decision_of_the_exit_kline(run):
    rows = [*ENTRY, (100, 100, 90, 95), (95,) * 4, (95,) * 4]
    outcome = run(rows, [1, NAN, 1, NAN, NAN], stop_loss=0.05, reentry="NEXT_DECISION")
    assert outcome.fills["kline_index"].tolist() == [1, 2, 3]
    outcome = run(rows, [1, 1, NAN, 1, NAN], stop_loss=0.05, reentry="NEXT_DECISION")
    assert outcome.fills["kline_index"].tolist() == [1, 2, 4]


def test_every_kline_does_not_reenter_after_an_exit(run):
    rows = [*ENTRY, (100, 100, 90, 95), (95,) * 4, (95,) * 4]
    assert len(run(rows, [1] * 5, stop_loss=0.05, rebalance="EVERY_KLINE").fills) == 2


def test_signals_of_their_own_replace_the_scalar(run):
    rows = [*ENTRY, (100, 100, 90, 95), (95,) * 4]
    columns = {"stop_loss": np.array([NAN, 0.05, 0.05, 0.05])}
    assert len(run(rows, HOLD, stop_loss=0.05, columns=columns).fills) == 1


def test_levels_move_with_the_average_cost(run):
    rows = [(100,) * 4, (100,) * 4, (200,) * 4, (200, 200, 141, 150), (150,) * 4]
    outcome = run(rows, [1, 2, NAN, NAN, NAN], target_unit="QUANTITY", stop_loss=0.05)
    assert outcome.fills["price"][2] == pytest.approx(150 * 0.95)
