"""A check finds what is planted, however the klines are cut into stretches."""

import itertools
import random

import numpy as np
import pytest

from klinecast.convert.checks import CheckQuery
from klinecast.convert.data import KlineQuery
from klinecast.importing import read_klines
from klinecast.interval import Interval
from klinecast.models import FindingKind
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from services.data.catalog import Flaws
from services.data.checking import SeriesChecker
from tests.integration.data.kline_driver import HOUR_MS, START_MS, join, make_klines, pick


def check(columns, *, cuts=(), interval=Interval.H1, flaws=None, jump=0.2, quiet=10, most=100):
    key = SeriesKey("BINANCE", MarketType.SPOT, "BTCUSDT", interval)
    query = KlineQuery(key, 0, 1, 1, ("close", "volume"), 0, None)
    checker = SeriesChecker(CheckQuery(query, jump, quiet, most))
    for start, stop in itertools.pairwise([0, *cuts, len(columns["close"])]):
        checker.add(pick(columns, slice(start, stop)))
    checker.add_flaws(flaws or Flaws(1, [], []))
    return checker.report(len(columns["close"]), 1)


def make_doubtful(seed):
    columns = make_klines(600, seed=seed)
    columns["volume"][50:80] = 0
    columns["volume"][200:209] = 0
    columns["volume"][300:340] = 0
    columns["close"][400:] *= 1.5
    return pick(columns, np.delete(np.arange(600), [100, 101, 320, 500]))


def _hour(time_ms):
    return (time_ms - START_MS) // HOUR_MS


def test_what_is_planted_is_found(seed):
    report = check(make_doubtful(seed))
    found = [
        (one.kind.value, (one.first_open_time_ms - START_MS) // HOUR_MS, one.kline_count) for one in report.findings
    ]
    assert found == [
        ("GAP", 100, 2),
        ("GAP", 320, 1),
        ("GAP", 500, 1),
        ("ZERO_VOLUME", 50, 30),
        ("ZERO_VOLUME", 300, 20),
        ("ZERO_VOLUME", 321, 19),
        ("JUMP", 400, 1),
    ]
    assert report.findings[-1].change == pytest.approx(0.5, abs=0.01)
    assert {kind.value: (one.findings, one.klines) for kind, one in report.counts.items()} == {
        "GAP": (3, 4),
        "ZERO_VOLUME": (3, 69),
        "JUMP": (1, 1),
    }


def test_cuts_change_nothing(seed):
    columns = make_doubtful(seed)
    whole = check(columns)
    for _ in range(200):
        assert check(columns, cuts=sorted(random.sample(range(1, 596), random.randrange(60)))) == whole


def test_all_are_counted_though_few_are_kept(seed):
    columns = make_klines(1_000, seed=seed)
    columns["close"][::2] *= 2
    report = check(columns, most=5)
    assert len(report.findings) == 5
    assert report.counts[FindingKind.JUMP].findings == 999


def test_what_is_on_record_is_reported():
    refused = [
        ("open_time_ms", "UNALIGNED", 7, 4, 5),
        ("open_time_ms", "DUPLICATE", 1, 6, 6),
        ("high", "HIGH_BELOW_CLOSE", 2, 8, 9),
    ]
    flaws = Flaws(1, [(1, 2, 3)], refused)
    found = [(one.kind.value, one.kline_count, one.reason) for one in check(make_klines(9), flaws=flaws).findings]
    assert found == [
        ("REWRITTEN", 3, ""),
        ("OFF_GRID", 7, "open_time_ms UNALIGNED"),
        ("DUPLICATE", 1, "open_time_ms DUPLICATE"),
        ("INVALID", 2, "high HIGH_BELOW_CLOSE"),
    ]


@pytest.mark.parametrize(
    ("file", "interval", "expected"),
    [
        ("BTCUSDT-1m-2023-03-24.csv", Interval.M1, [("GAP", 80), ("ZERO_VOLUME", 72)]),
        ("FTTUSDT-1h-2022-11_12-dead-market.csv", Interval.H1, [("ZERO_VOLUME", 1_147)]),
    ],
)
def test_halts_and_dead_markets_of_the_real_files(shared_data, file, interval, expected):
    columns = join([batch.columns for batch in read_klines(shared_data / "data" / "dirty" / file)])
    found = [(one.kind.value, one.kline_count) for one in check(columns, interval=interval, jump=0.9).findings]
    assert found == expected
