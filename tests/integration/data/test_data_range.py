"""What a range holds is told without its klines, and tells whether what was read earlier would be read again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from klinecast.client import Client, IndicatorKey, RangeSummary
from klinecast.errors import FailedPrecondition, InvalidArgument, NotFound
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from tests.factories import HOUR_MS, START_MS, make_columns, make_series
from tests.suite import Suite

COUNT = 20_000
"""Two blocks and a half."""
KLINES = make_columns(COUNT + 10)
END_MS = START_MS + 5_000 * HOUR_MS


@pytest.fixture
def client(suite: Suite):
    with suite.client() as client:
        yield client


@pytest.fixture
def series(client: Client) -> SeriesKey:
    series, times = make_series(), np.arange(COUNT + 10)
    kept = (times % 1_000 != 7) & (times < COUNT)
    client.ingest_klines(series, [{name: values[kept] for name, values in KLINES.items()}])
    return series


def is_same(before: RangeSummary, now: RangeSummary) -> bool:
    return now.kline_count == before.kline_count and now.rewrite_revision <= before.revision


def ingest(client: Client, series: SeriesKey, index: int, *, scale: float = 1.0) -> None:
    row = {name: values[index : index + 1] for name, values in KLINES.items()}
    client.ingest_klines(series, [row | {"volume": row["volume"] * scale}])


def test_it_counts_what_a_stream_would_send(client: Client, series: SeriesKey) -> None:
    for start, end in ((0, 5_000), (7, 8_300), (8_191, 8_193), (123, 19_999)):
        bounds = START_MS + start * HOUR_MS, START_MS + end * HOUR_MS
        found, loaded = client.get_range(series, *bounds), client.load_klines(series, *bounds)
        assert (found.kline_count, found.revision) == (len(loaded.klines), loaded.revision)


@pytest.mark.parametrize(
    ("index", "scale", "same"),
    [
        (COUNT, 1.0, True),  # appended after the range
        (1_000, 1.0, True),  # sent again as it was
        (19_000, 2.0, True),  # rewritten far away
        (1_000, 2.0, False),
        (1_007, 1.0, False),  # a gap filled
    ],
)
def test_it_tells_whether_the_same_would_be_read(
    client: Client, series: SeriesKey, index: int, scale: float, same: bool
) -> None:
    before = client.get_range(series, START_MS, END_MS)
    ingest(client, series, index, scale=scale)
    assert is_same(before, client.get_range(series, START_MS, END_MS)) == same


def test_an_append_inside_the_range_is_told(client: Client, series: SeriesKey) -> None:
    end_ms = START_MS + (COUNT + 100) * HOUR_MS
    before = client.get_range(series, START_MS, end_ms)
    ingest(client, series, COUNT)
    assert not is_same(before, client.get_range(series, START_MS, end_ms))


def test_a_deleted_and_restored_kline_is_told(client: Client, series: SeriesKey) -> None:
    before = client.get_range(series, START_MS, END_MS)
    client.delete_klines(series, START_MS + 1_000 * HOUR_MS, START_MS + 1_001 * HOUR_MS)
    ingest(client, series, 1_000)
    assert not is_same(before, client.get_range(series, START_MS, END_MS))


def test_resampled_ranges_follow_their_source(client: Client, series: SeriesKey) -> None:
    daily = dataclasses.replace(series, interval=Interval.D1)
    before = client.get_range(daily, START_MS, END_MS)
    assert before.source_interval is Interval.H1
    assert before.kline_count == len(client.load_klines(daily, START_MS, END_MS).klines)
    ingest(client, series, 1_000, scale=2.0)
    assert not is_same(before, client.get_range(daily, START_MS, END_MS))


def test_stored_indicators_are_told_beside(client: Client, series: SeriesKey) -> None:
    key = IndicatorKey(series.venue, series.market_type, series.symbol, "mood")
    times = START_MS + HOUR_MS * np.arange(100)
    client.ingest_indicators(key, [(times, np.ones(100))])
    found = client.get_range(series, START_MS, START_MS + 50 * HOUR_MS, indicators=["mood", "absent"])
    assert {name: one.value_count for name, one in found.indicators.items()} == {"mood": 50}
    client.ingest_indicators(key, [(times[:1], np.zeros(1))])
    now = client.get_range(series, START_MS, START_MS + 50 * HOUR_MS, indicators=["mood"])
    assert now.indicators["mood"].rewrite_revision > found.indicators["mood"].revision


def test_its_errors_are_those_of_a_stream(client: Client, series: SeriesKey) -> None:
    with pytest.raises(NotFound):
        client.get_range(make_series(), START_MS, END_MS)
    with pytest.raises(FailedPrecondition):
        client.get_range(series, 0, 1_000)
    with pytest.raises(InvalidArgument, match="end_time"):
        client.get_range(series, END_MS, START_MS)
    with pytest.raises(InvalidArgument, match="indicators"):
        client.get_range(series, START_MS, END_MS, indicators=["x"] * 33)
