"""Intervals that are not stored, built by the service from one that is."""

import random
from dataclasses import replace

import grpc.aio
import numpy as np
import pytest

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.market.v1 import interval_pb2
from klinecast.columns import read_columns
from klinecast.importing import read_klines
from klinecast.interval import Interval, ceil_open, floor_open, next_open
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from services.data.resample import Resampler
from tests.factories import make_columns, make_series
from tests.integration.data.kline_driver import HOUR_MS, KEY, START_MS, assert_equal, drain, join, make_klines, pick

COUNT = 20_000
NAMES = ("open", "high", "low", "close", "volume")
MAX_MS = 4_102_444_800_000


@pytest.fixture
async def klines(data):
    """Store hours from 05:00 of a day, some of them and two whole days missing."""
    kept = np.random.default_rng(5).random(COUNT) > 0.05
    kept[9_000:9_060] = False
    kept[[0, -1]] = True
    stored = pick(make_klines(COUNT, start_ms=START_MS + 5 * HOUR_MS), kept)
    await data.ingest(stored)
    return stored


def build(klines, target, source=Interval.H1):
    """Return all whole klines of a larger interval."""
    times = klines["open_time_ms"]
    start_ms = ceil_open(int(times[0]), target)
    end_ms = floor_open(next_open(int(times[-1]), source), target)
    resampler = Resampler(target, NAMES)
    within = pick(klines, (times >= start_ms) & (times < end_ms))
    return join([resampler.add(within), resampler.finish()])


@pytest.mark.parametrize("target", ["2h", "4h", "12h", "1d", "3d", "1w", "1M"])
async def test_any_range_of_any_larger_interval(data, klines, target):
    key = replace(KEY, interval=Interval(target))
    expected = build(klines, key.interval)
    whole, messages = await data.stream(0, MAX_MS, key=key)
    assert_equal(whole, expected)
    assert messages[0].source_interval == interval_pb2.INTERVAL_1_HOUR
    assert messages[0].last_open_time_ms == expected["open_time_ms"][-1]
    times = expected["open_time_ms"]
    for _ in range(12):
        start_ms, end_ms = sorted(random.sample(range(START_MS, int(times[-1]) + 9 * HOUR_MS), 2))
        part = pick(expected, (times >= start_ms) & (times < end_ms))
        if not len(part["open_time_ms"]):
            continue
        found, messages = await data.stream(start_ms, end_ms, key=key, batch_size=random.randrange(50, 900))
        assert_equal(found, part)
        assert {message.klines_total for message in messages} == {messages[-1].klines_sent} == {len(found["close"])}


async def test_a_cut_stream_resumes_where_it_ended(data, klines):
    key = replace(KEY, interval=Interval.H4)
    expected, messages = await data.stream(0, MAX_MS, key=key, batch_size=300)
    for cut in range(0, len(messages), 4):
        fields = {
            "resume_from_ms": messages[cut].next_open_time_ms,
            "expected_revision": messages[0].revision,
            "source_interval": messages[0].source_interval,
        }
        _, rest = await data.stream(0, MAX_MS, key=key, batch_size=777, **fields)
        assert_equal(join([read_columns(one.batch) for one in (*messages[: cut + 1], *rest)]), expected)
        assert not rest or rest[-1].klines_sent == len(expected["close"])


async def test_a_kline_is_shown_when_its_last_source_kline_is_there(data):
    hours = make_klines(30)
    key = replace(KEY, interval=Interval.H4)
    await data.ingest(pick(hours, slice(2, 11)))
    found, _ = await data.stream(START_MS, MAX_MS, key=key)
    assert list(found["open_time_ms"]) == [START_MS + 4 * HOUR_MS]
    await data.ingest(pick(hours, slice(11, 12)))
    found, _ = await data.stream(START_MS, MAX_MS, key=key)
    assert list(found["open_time_ms"]) == [START_MS + 4 * HOUR_MS, START_MS + 8 * HOUR_MS]


async def test_the_source_is_the_finest_of_those_that_cover_most(data):
    minutes = make_klines(3 * 24 * 60, interval=Interval.M1, start_ms=START_MS + 7 * 24 * HOUR_MS)
    await data.ingest(minutes, key=replace(KEY, interval=Interval.M1))
    await data.ingest(make_klines(24 * 20, seed=3))
    target = replace(KEY, interval=Interval.H4)
    for start_day, end_day, expected in ((7, 10, "1_MINUTE"), (8, 9, "1_MINUTE"), (5, 10, "1_HOUR"), (0, 20, "1_HOUR")):
        start_ms, end_ms = START_MS + start_day * 24 * HOUR_MS, START_MS + end_day * 24 * HOUR_MS
        _, messages = await data.stream(start_ms, end_ms, key=target)
        assert interval_pb2.Interval.Name(messages[0].source_interval) == f"INTERVAL_{expected}"
    _, messages = await data.stream(0, MAX_MS, key=target, source_interval=interval_pb2.INTERVAL_1_MINUTE)
    assert messages[0].klines_total == 18


async def test_what_cannot_be_built_is_told_at_once(data, details, klines):
    refused = ("INVALID_ARGUMENT", "INVALID_FIELD", ["source_interval"])
    cases = [
        (Interval.M30, {}, ("NOT_FOUND", "SERIES_NOT_FOUND", [])),
        (Interval.H4, {"source_interval": interval_pb2.INTERVAL_30_MINUTES}, ("NOT_FOUND", "SERIES_NOT_FOUND", [])),
        (Interval.H1, {"source_interval": interval_pb2.INTERVAL_4_HOURS}, refused),
        (Interval.W1, {"source_interval": interval_pb2.INTERVAL_3_DAYS}, refused),
        (Interval.H4, {"source_interval": 99}, refused),
        (Interval.H4, {"gap_policy": pb.GAP_POLICY_FAIL}, ("FAILED_PRECONDITION", "GAP_IN_RANGE", [])),
    ]  # fmt: skip
    for interval, fields, expected in cases:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await data.stream(START_MS, MAX_MS, key=replace(KEY, interval=interval), **fields)
        assert details(caught.value)[:3] == expected
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await data.stream(0, START_MS + 8 * HOUR_MS, key=replace(KEY, interval=Interval.H4))
    assert details(caught.value)[:2] == ("FAILED_PRECONDITION", "NO_KLINES_IN_RANGE")


async def test_appends_are_not_seen_and_rewrites_end_it(data, details, klines):
    key = replace(KEY, interval=Interval.H2)
    expected = build(klines, key.interval)
    stream = data.open_stream(0, MAX_MS, key=key, batch_size=1)
    first = await stream.read()
    await data.ingest(make_klines(500, start_ms=int(klines["open_time_ms"][-1]) + HOUR_MS))
    messages = [first, *await drain(stream)]
    assert_equal(join([read_columns(message.batch) for message in messages]), expected)
    stream = data.open_stream(0, MAX_MS, key=key, batch_size=1)
    await stream.read()
    klines["volume"][-1] += 1
    await data.ingest(pick(klines, slice(-1, None)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain(stream)
    assert details(caught.value)[:2] == ("ABORTED", "SERIES_CHANGED")


@pytest.mark.parametrize(
    ("source", "target", "file", "check"),
    [
        ("1m", "1h", "1m/BTCUSDT-1m-2024.csv.gz", "1h/BTCUSDT-1h-2022-01_2026-04.csv.gz"),
        ("1h", "1d", "1h/BTCUSDT-1h-2022-01_2026-04.csv.gz", "1d/BTCUSDT-1d.csv.gz"),
        ("1h", "1d", "1h/ETHUSDT-1h-2022-01_2026-04.csv.gz", "1d/ETHUSDT-1d.csv.gz"),
    ],
)
async def test_real_klines_built_equal_the_venues_own_decimal_for_decimal(
    data, shared_data, source, target, file, check
):
    spot = shared_data / "data" / "spot"
    await data.ingest(join([_required(batch.columns) for batch in read_klines(spot / file)]), key=_key(source))
    stored = join([_required(batch.columns) for batch in read_klines(spot / check)])
    built, _ = await data.stream(0, MAX_MS, key=_key(target), batch_size=32_768)
    both = np.isin(stored["open_time_ms"], built["open_time_ms"])
    assert np.count_nonzero(both) == len(built["close"]) >= (8_784 if source == "1m" else 1_579)
    for name in NAMES:
        found, expected = built[name], stored[name][both]
        assert [f"{value:.8f}" for value in found] == [f"{value:.8f}" for value in expected], name


def _key(interval):
    return SeriesKey("BINANCE", MarketType.SPOT, "BTCUSDT", Interval(interval))


def _required(columns):
    return {name: columns[name] for name in ("open_time_ms", *NAMES)}


def test_the_sdk_names_the_source(suite):
    with suite.client() as client:
        series = make_series()
        client.ingest_klines(series, [make_columns(500)])
        minutes = {name: values[:240] for name, values in make_columns(500).items()}
        minutes["open_time_ms"] = START_MS + 60_000 * np.arange(240)
        client.ingest_klines(replace(series, interval=Interval.M1), [minutes])
        wanted = replace(series, interval=Interval.H4)
        for source, count in ((None, 125), (Interval.H1, 125), (Interval.M1, 1)):
            loaded = client.load_klines(wanted, START_MS, MAX_MS, source_interval=source)
            assert (loaded.source_interval, len(loaded.klines)) == (source or Interval.H1, count)
            assert sum(map(len, client.stream_klines(wanted, START_MS, MAX_MS, source_interval=source))) == count
