"""Larger klines out of smaller ones: every rule by a plain loop, whatever the cuts between stretches."""

import itertools
import random

import numpy as np
import pytest

from klinecast.interval import Interval, ceil_open, divides, floor_open, next_open
from services.data.resample import Resampler, bucket_of
from tests.integration.data.kline_driver import assert_equal, join, make_klines, pick

NAMES = ("open", "high", "low", "close", "volume", "quote_volume", "trade_count")
TARGETS = [Interval.H4, Interval.D1, Interval.D3, Interval.W1, Interval.MONTH]


def _source(seed, count=3_000):
    columns = make_klines(count, seed=seed)
    columns["quote_volume"] = np.where(np.arange(count) % 997 == 3, np.nan, columns["volume"] * 7.1)
    columns["trade_count"] = np.where(np.arange(count) % 991 == 5, -1, np.arange(count))
    kept = np.random.default_rng(seed).random(count) > 0.2
    return pick(columns, kept)


def _by_loop(source, target):
    rows = []
    indices = range(len(source["open_time_ms"]))
    for bucket, group in itertools.groupby(indices, key=lambda i: floor_open(int(source["open_time_ms"][i]), target)):
        part = pick(source, list(group))
        volume, quote = 0.0, 0.0
        for one, other in zip(part["volume"], part["quote_volume"], strict=True):
            volume, quote = volume + one, quote + other
        counts = part["trade_count"]
        count = -1 if min(counts) < 0 else sum(counts)
        values = (bucket, part["open"][0], max(part["high"]), min(part["low"]), part["close"][-1], volume, quote, count)
        rows.append(values)
    return dict(zip(("open_time_ms", *NAMES), map(np.asarray, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_any_cuts_give_what_a_plain_loop_gives_bit_for_bit(target, seed):
    source = _source(seed)
    expected = _by_loop(source, target)
    for _ in range(10):
        cuts = sorted(random.sample(range(1, len(source["open_time_ms"])), random.randrange(40)))
        resampler = Resampler(target, NAMES)
        edges = itertools.pairwise([0, *cuts, len(source["open_time_ms"])])
        built = [resampler.add(pick(source, slice(*edge))) for edge in edges]
        assert_equal(join([*built, resampler.finish()]), expected)


def test_a_kline_comes_out_when_the_next_has_begun():
    resampler = Resampler(Interval.H4, ("close",))
    source = {name: values for name, values in make_klines(5).items() if name in ("open_time_ms", "close")}
    assert len(resampler.add(pick(source, slice(0, 4)))["close"]) == 0
    assert resampler.add(pick(source, slice(4, 5)))["close"] == source["close"][3]
    assert resampler.finish()["close"] == source["close"][4]


@pytest.mark.parametrize("target", list(Interval))
def test_buckets_are_the_grid(target, seed):
    times = np.random.default_rng(seed).integers(10**12, 2 * 10**12, 500)
    assert list(bucket_of(times, target)) == [floor_open(int(time), target) for time in times]
    for time in map(int, times[:50]):
        floor, ceiling = floor_open(time, target), ceil_open(time, target)
        assert floor <= time <= ceiling
        assert ceiling == (floor if floor == time else next_open(floor, target))


def test_what_divides_what():
    expected = {
        "4h": {"1m", "3m", "5m", "15m", "30m", "1h", "2h"},
        "12h": {"1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h"},
        "3d": {"1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"},
        "1w": {"1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"},
        "1M": {"1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"},
        "1m": set(),
    }
    for target, sources in expected.items():
        assert {one.value for one in Interval if divides(one, Interval(target))} == sources
