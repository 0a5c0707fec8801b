"""Gaps from neighbours, and the block arithmetic."""

import pytest

from klinecast.interval import Interval
from services.data.blocks import KLINES_PER_BLOCK, block_of, max_step_ms
from services.data.catalog import Gap, gaps_between

DAY_MS = 86_400_000


def test_neighbours_that_touch_make_no_gap():
    assert gaps_between([(0, 60_000), (60_000, 120_000)], Interval.M1) == []


def test_a_gap_names_its_first_and_last_missing_kline():
    assert gaps_between([(0, 60_000), (60_000, 240_000)], Interval.M1) == [Gap(120_000, 180_000, 2)]


def test_months_are_counted_by_the_calendar():
    january, march = 0, 59 * DAY_MS
    assert gaps_between([(january, march)], Interval.MONTH) == [Gap(31 * DAY_MS, 31 * DAY_MS, 1)]
    assert max_step_ms(Interval.MONTH) < march - january


@pytest.mark.parametrize("interval", list(Interval))
def test_a_block_holds_as_many_intervals_as_it_says(interval):
    first = 100 * KLINES_PER_BLOCK * interval.span_ms
    assert block_of(first, interval) == block_of(first + (KLINES_PER_BLOCK - 1) * interval.span_ms, interval) == 100
    assert block_of(first + KLINES_PER_BLOCK * interval.span_ms, interval) == 101
