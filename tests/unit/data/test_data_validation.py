"""The checks of a batch, without a database."""

import random

import numpy as np
import pytest

from klinecast.interval import Interval
from services.data.validation import check_batch

DAY_MS = 86_400_000


def _flat(times, **columns):
    count = len(times)
    flat = {name: np.full(count, 10.0) for name in ("open", "high", "low", "close", "volume")}
    return {"open_time_ms": np.asarray(times, dtype=np.int64), **flat, **columns}


def test_an_empty_batch_is_good():
    checked = check_batch(_flat([]), Interval.M1)
    assert (checked.rejections, checked.repeated, len(checked.columns["close"])) == ((), 0, 0)


@pytest.mark.parametrize(
    ("interval", "good", "bad"),
    [
        (Interval.W1, 4 * DAY_MS, 3 * DAY_MS),
        (Interval.MONTH, 31 * DAY_MS, 30 * DAY_MS),
        (Interval.D3, 3 * DAY_MS, 4 * DAY_MS),
    ],
)
def test_open_times_lie_on_the_grid(interval, good, bad):
    checked = check_batch(_flat([good, bad]), interval)
    assert [(one.index, one.reason) for one in checked.rejections] == [(1, "UNALIGNED")]


def test_extreme_times_are_out_of_range():
    checked = check_batch(_flat([-(2**63), 2**63 - 1, 0]), Interval.MONTH)
    assert [one.reason for one in checked.rejections] == ["OUT_OF_RANGE"] * 2


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("quote_volume", np.inf, "NOT_FINITE"),
        ("quote_volume", -1.0, "NEGATIVE"),
        ("taker_buy_base_volume", -1.0, "NEGATIVE"),
        ("taker_buy_quote_volume", -np.inf, "NOT_FINITE"),
        ("trade_count", -2, "NEGATIVE"),
    ],
)
def test_optional_columns_are_checked_where_given(column, value, reason):
    checked = check_batch(_flat([0, DAY_MS], **{column: np.asarray([value, 0])}), Interval.D1)
    assert [(one.index, one.field, one.reason) for one in checked.rejections] == [(0, column, reason)]


def test_the_first_failed_check_is_reported():
    checked = check_batch(_flat([1], open=np.asarray([np.nan])), Interval.D1)
    assert [one.reason for one in checked.rejections] == ["UNALIGNED"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 13, 30, 100])
def test_of_equal_open_times_the_first_stays(count):
    rows = [(random.randrange(count), random.randrange(1, 3)) for _ in range(count)]
    times = [day * DAY_MS for day, _ in rows]
    volumes = np.asarray([float(volume) for _, volume in rows])
    checked = check_batch(_flat(times, volume=volumes), Interval.D1)
    first = {}
    for time, volume in zip(times, volumes, strict=True):
        first.setdefault(time, volume)
    assert dict(zip(checked.columns["open_time_ms"], checked.columns["volume"], strict=True)) == first
    assert list(checked.columns["open_time_ms"]) == sorted(first)
    differing = [index for index, time in enumerate(times) if volumes[index] != first[time]]
    assert [(one.index, one.reason) for one in checked.rejections] == [(index, "DUPLICATE") for index in differing]
    assert checked.repeated == len(rows) - len(first) - len(differing)
