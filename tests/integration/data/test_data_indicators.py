"""Indicators over the wire: computed ones equal TA-Lib over the whole history, stored ones are as they stood."""

import random
from dataclasses import replace

import grpc.aio
import numpy as np
import pytest
from talib.abstract import Function

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.columns import encode_columns, read_column
from klinecast.convert.indicators import indicator_key_to_proto, indicator_to_proto, series_without_interval
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.indicators import Indicator, IndicatorKey
from klinecast.interval import Interval
from klinecast.types import MarketType
from tests.integration.data.kline_driver import HOUR_MS, KEY, START_MS, make_klines, pick

COUNT = 30_000
END_MS = START_MS + COUNT * HOUR_MS
FUNDING = IndicatorKey("BINANCE", MarketType.SPOT, "BTCUSDT", "funding_rate")
COMPUTED = [
    Indicator("SMA", {"timeperiod": 50}),
    Indicator("SMA", {"timeperiod": 20}, label="slow", price="open"),
    Indicator("EMA", {"timeperiod": 200}),
    Indicator("RSI"),
    Indicator("MACD", {"signalperiod": 12}),
    Indicator("BBANDS", {"timeperiod": 20, "nbdevup": 2.5}),
    Indicator("ATR"),
    Indicator("ADX"),
    Indicator("STOCH"),
    Indicator("OBV"),
    Indicator("AD"),
    Indicator("SAR"),
    Indicator("KAMA"),
    Indicator("CDLDOJI"),
]


@pytest.fixture
async def klines(data):
    """Store klines, a tenth of them missing."""
    kept = np.random.default_rng(5).random(COUNT) > 0.1
    kept[[0, -1]] = True
    stored = pick(make_klines(COUNT), kept)
    await data.ingest(stored)
    return stored


async def stream(data, indicators, start_ms=0, end_ms=END_MS, *, key=KEY, **fields):
    request = pb.StreamIndicatorsRequest(
        series=series_to_proto(key) if key is not None else series_without_interval(FUNDING),
        start_time=timestamp_to_proto(start_ms),
        end_time=timestamp_to_proto(end_ms),
        indicators=map(indicator_to_proto, indicators),
        **fields,
    )
    messages = [message async for message in data.stub.StreamIndicators(request)]
    columns = {"open_time_ms": np.concatenate([read_column(one.batch, "open_time_ms") for one in messages])}
    for at, column in enumerate(messages[0].batch.columns):
        columns[column.name] = np.concatenate([read_column(one.batch.columns[at], "value") for one in messages])
    return columns, messages


async def ingest(data, times, values, *, on_invalid=pb.ON_INVALID_REJECT, size=32_768):
    async def messages():
        for start in range(0, max(1, len(times)), size):
            message = pb.IngestIndicatorsRequest(series=indicator_key_to_proto(FUNDING), on_invalid=on_invalid)
            part = slice(start, start + size)
            encode_columns(message.batch, {"open_time_ms": np.asarray(times)[part], "value": np.asarray(values)[part]})
            yield message

    return await data.stub.IngestIndicators(messages())


def by_talib(klines, indicator):
    function = Function(indicator.name)
    if indicator.price != "close":
        function.input_names = {"price": indicator.price}
    function.parameters = {name: type(function.parameters[name])(value) for name, value in indicator.params.items()}
    found = function({name: np.asarray(values, dtype=float) for name, values in klines.items()})
    outputs = [found] if isinstance(found, np.ndarray) else found
    names = [indicator.column] if len(outputs) == 1 else [f"{indicator.column}.{one}" for one in function.output_names]
    columns = {name: np.array(values, dtype=float) for name, values in zip(names, outputs, strict=True)}
    for values in columns.values():
        values[: function.lookback] = np.nan
    return columns


def assert_close(found, expected):
    scale = np.nanmax(np.abs(expected)) if np.isfinite(expected).any() else 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)


async def test_values_do_not_depend_on_where_the_range_begins(data, klines):
    whole = {}
    for one in COMPUTED:
        whole |= by_talib(klines, one)
    times = klines["open_time_ms"]
    for _ in range(6):
        start_ms, end_ms = sorted(random.sample(range(START_MS - HOUR_MS, END_MS), 2))
        within = (times >= start_ms) & (times < end_ms)
        found, messages = await stream(data, COMPUTED, start_ms, end_ms, batch_size=random.randrange(500, 9_000))
        assert list(found) == ["open_time_ms", *whole]
        np.testing.assert_array_equal(found["open_time_ms"], times[within])
        assert messages[-1].rows_sent == messages[0].rows_total == np.count_nonzero(within)
        for name, expected in whole.items():
            assert_close(found[name], expected[within])


async def test_a_cut_stream_resumes_where_it_ended(data, klines):
    chosen = [COMPUTED[2], COMPUTED[9]]
    whole, messages = await stream(data, chosen, batch_size=2_000)
    for cut in (0, 3, len(messages) - 2):
        fields = {
            "resume_from_ms": messages[cut].next_open_time_ms,
            "expected_revision": messages[0].revision,
            "source_interval": messages[0].source_interval,
        }
        rest, more = await stream(data, chosen, batch_size=777, **fields)
        for name, values in rest.items():
            assert_close(values, whole[name][messages[cut].rows_sent :])
        assert more[-1].rows_sent == len(whole["ema"])


async def test_a_larger_interval_is_built_first(data, klines):
    key = replace(KEY, interval=Interval.H4)
    built, _ = await data.stream(0, END_MS, key=key)
    found, _ = await stream(data, [Indicator("EMA")], START_MS + 500 * HOUR_MS, key=key)
    expected = by_talib(built, Indicator("EMA"))["ema"]
    assert_close(found["ema"], expected[-len(found["ema"]) :])


async def test_stored_values_are_the_last_at_or_before_each_kline(data, klines, seed):
    numbers = np.random.default_rng(seed)
    times = START_MS + 9 + np.cumsum(numbers.integers(1, 5_000_000, 40_000))
    values = numbers.random(len(times))
    done = await ingest(data, times[::-1], values[::-1], size=9_000)
    assert (done.inserted, done.updated, done.unchanged, done.rejected) == (40_000, 0, 0, 0)
    for start_ms in (0, START_MS + 10_000 * HOUR_MS + 77):
        found, messages = await stream(data, [Indicator("funding_rate", label="f")], start_ms, batch_size=10_000)
        places = np.searchsorted(times, found["open_time_ms"], side="right") - 1
        expected = np.where(places >= 0, values[np.maximum(places, 0)], np.nan)
        np.testing.assert_array_equal(found["f"], expected)
        assert dict(messages[0].indicator_revisions) == {"funding_rate": done.revision}
    raw, messages = await stream(data, [Indicator("funding_rate")], START_MS + 500, key=None, batch_size=7_000)
    np.testing.assert_array_equal(raw["open_time_ms"], times[times >= START_MS + 500])
    np.testing.assert_array_equal(raw["funding_rate"], values[times >= START_MS + 500])
    cut = {"resume_from_ms": messages[2].next_open_time_ms, "expected_indicator_revisions": {"funding_rate": 5}}
    rest, more = await stream(data, [Indicator("funding_rate")], START_MS + 500, key=None, **cut)
    np.testing.assert_array_equal(rest["funding_rate"], raw["funding_rate"][21_000:])
    assert more[-1].rows_sent == more[-1].rows_total == len(raw["funding_rate"])


async def test_sending_values_again_changes_nothing_and_others_are_counted(data, details):
    times = START_MS + HOUR_MS * np.arange(8, dtype=np.int64)
    values = np.arange(8.0)
    assert (await ingest(data, times, values)).inserted == 8
    again = await ingest(data, times, values)
    assert (again.inserted, again.updated, again.unchanged, again.revision) == (0, 0, 8, 1)
    values[3] = 9
    changed = await ingest(data, times, values)
    assert (changed.updated, changed.unchanged, changed.revision) == (1, 7, 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(data, [Indicator("funding_rate")], key=None, expected_indicator_revisions={"funding_rate": 1})
    assert details(caught.value)[:2] == ("ABORTED", "SERIES_CHANGED")
    listed = await data.stub.ListIndicatorSeries(pb.ListIndicatorSeriesRequest(page_size=1))
    assert [(one.series.name, one.value_count, one.revision) for one in listed.series] == [("funding_rate", 8, 2)]
    assert listed.next_page_token == ""


async def test_bad_values_are_left_out_or_refused(data, details):
    times = np.array([START_MS, START_MS + 1, -5, START_MS + 3, START_MS + 3, START_MS + 4, START_MS + 4])
    values = np.array([1.0, np.nan, 1.0, 2.0, 2.0, 3.0, 4.0])
    done = await ingest(data, times, values)
    assert (done.inserted, done.unchanged, done.rejected) == (3, 1, 3)
    assert [(one.index, one.field, one.reason) for one in done.rejections] == [
        (1, "value", "NOT_FINITE"),
        (2, "open_time_ms", "OUT_OF_RANGE"),
        (6, "open_time_ms", "DUPLICATE"),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ingest(data, times + 1, values, on_invalid=pb.ON_INVALID_FAIL)
    assert details(caught.value)[:2] == ("INVALID_ARGUMENT", "INVALID_INDICATOR_VALUE")
    raw, _ = await stream(data, [Indicator("funding_rate")], key=None)
    assert list(raw["funding_rate"]) == [1, 2, 3]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ingest(data, np.arange(32_769), np.arange(32_769.0), size=40_000)
    assert details(caught.value)[2] == ["batch.open_time_ms"]


async def test_what_cannot_be_answered_is_told_at_once(data, details, klines):
    invalid, sma = ("INVALID_ARGUMENT", "INVALID_FIELD"), Indicator("SMA")
    for indicators, expected, fields in (
        ([], invalid, ["indicators"]),
        ([sma, Indicator("SMA", {"timeperiod": 5})], invalid, ["indicators"]),
        ([Indicator("SMAA")], ("INVALID_ARGUMENT", "UNKNOWN_INDICATOR"), ["indicators[0].name"]),
        ([sma, Indicator("MAVP")], ("INVALID_ARGUMENT", "UNKNOWN_INDICATOR"), ["indicators[1].name"]),
        ([Indicator("Sma!")], invalid, ["indicators[0].name"]),
        ([Indicator("SMA", {"period": 5})], invalid, ["indicators[0].params.period"]),
        ([Indicator("SMA", {"timeperiod": 2.5})], invalid, ["indicators[0].params.timeperiod"]),
        ([Indicator("SMA", {"timeperiod": 90_000})], invalid, ["indicators[0].params"]),
        ([Indicator("SMA", {"timeperiod": -1})], invalid, ["indicators[0].params"]),
        ([Indicator("ATR", price="open")], invalid, ["indicators[0].price"]),
        ([Indicator("SMA", label="a b")], invalid, ["indicators[0].label"]),
        ([Indicator("sentiment")], ("NOT_FOUND", "INDICATOR_NOT_FOUND"), []),
        ([Indicator("sentiment", {"a": 1})], invalid, ["indicators[0].params.a"]),
    ):  # fmt: skip
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream(data, indicators)
        assert details(caught.value)[:3] == (*expected, fields), indicators
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(data, [sma], key=None)
    assert details(caught.value)[2] == ["series.interval"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream(data, [sma], 0, START_MS)
    assert details(caught.value)[:2] == ("FAILED_PRECONDITION", "NO_KLINES_IN_RANGE")
