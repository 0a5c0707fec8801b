"""Streams: any range in any batches, one state of the series, resumption."""

import random

import grpc.aio
import numpy as np
import pytest

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.columns import read_columns
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from tests.integration.data.kline_driver import HOUR_MS, KEY, START_MS, assert_equal, drain, join, make_klines, pick

COUNT = 20_000
END_MS = START_MS + COUNT * HOUR_MS
MAX_MS = 4_102_444_800_000


@pytest.fixture
async def klines(data):
    """Store a series over four blocks, a tenth of its klines missing."""
    kept = np.random.default_rng(5).random(COUNT) > 0.1
    kept[[0, -1]] = True
    stored = pick(make_klines(COUNT), kept)
    await data.ingest(stored)
    return stored


def _within(klines, start_ms, end_ms):
    times = klines["open_time_ms"]
    return pick(klines, (times >= start_ms) & (times < end_ms))


async def test_any_range_in_any_batches_is_what_was_stored(data, klines):
    for _ in range(40):
        start_ms, end_ms = sorted(random.sample(range(START_MS - 10 * HOUR_MS, END_MS + 10 * HOUR_MS), 2))
        expected = _within(klines, start_ms, end_ms)
        size = random.choice((1, 7, 100, 4_096, 32_768)) if len(expected["open_time_ms"]) < 500 else 4_000
        if not len(expected["open_time_ms"]):
            continue
        found, messages = await data.stream(start_ms, end_ms, batch_size=size)
        assert_equal(found, expected)
        lengths = [len(message.batch.open_time_ms) for message in messages]
        assert all(length == size for length in lengths[:-1])
        assert [message.klines_sent for message in messages] == list(np.cumsum(lengths))
        assert {message.klines_total for message in messages} == {sum(lengths)}


async def test_a_cut_stream_resumes_where_it_ended(data, klines):
    _, messages = await data.stream(START_MS, END_MS, batch_size=1_000)
    for _ in range(10):
        cut = random.randrange(len(messages))
        fields = {"resume_from_ms": messages[cut].next_open_time_ms, "expected_revision": messages[0].revision}
        _, rest = await data.stream(START_MS, END_MS, batch_size=random.randrange(500, 9_000), **fields)
        parts = [read_columns(message.batch) for message in (*messages[: cut + 1], *rest)]
        assert_equal(join(parts), klines)
        assert {message.klines_total for message in rest} <= {len(klines["open_time_ms"])}
        assert not rest or rest[-1].klines_sent == len(klines["open_time_ms"])


async def test_resuming_at_the_end_sends_nothing(data, klines):
    assert (await data.stream(START_MS, END_MS, resume_from_ms=END_MS))[1] == []


async def test_the_first_message_tells_revision_and_last_open_time(data, klines):
    _, messages = await data.stream(START_MS, END_MS, batch_size=5_000)
    assert messages[0].revision == 1
    assert messages[0].last_open_time_ms == klines["open_time_ms"][-1]
    assert not any(message.HasField("revision") for message in messages[1:])


async def test_the_widest_range_is_the_whole_series(data, klines):
    found, _ = await data.stream(0, MAX_MS)
    assert_equal(found, klines)


async def test_a_second_reading_comes_from_memory_and_is_the_same(data, data_server, klines):
    first, _ = await data.stream(START_MS, END_MS)
    second, _ = await data.stream(START_MS + 1, END_MS - 1)
    assert_equal(second, pick(first, slice(1, None)))
    names = ("klinecast_data_cache_hits_total", "klinecast_data_cache_misses_total")
    assert [data_server.runtime.metrics.get_sample_value(name) for name in names] == [4, 4]


@pytest.mark.parametrize("rewrite", ["update", "insert", "delete"])
async def test_a_rewrite_during_a_stream_ends_it_aborted(data, details, klines, rewrite):
    stream = data.open_stream(START_MS, END_MS, batch_size=1)
    await stream.read()
    if rewrite == "delete":
        await data.delete(END_MS - 2 * HOUR_MS, END_MS)
    else:
        changed = make_klines(COUNT, seed=2)
        stored = np.isin(changed["open_time_ms"], klines["open_time_ms"])
        await data.ingest(pick(changed, np.flatnonzero(stored if rewrite == "update" else ~stored)[-10:]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain(stream)
    assert details(caught.value)[:2] == ("ABORTED", "SERIES_CHANGED")


@pytest.mark.parametrize("rewrite", ["update", "delete"])
async def test_resuming_after_a_rewrite_is_aborted(data, details, klines, rewrite):
    if rewrite == "update":
        klines["volume"][0] += 1
        await data.ingest(pick(klines, slice(0, 1)))
    else:
        await data.delete(START_MS, START_MS + 9_000 * HOUR_MS)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await data.stream(START_MS, END_MS, expected_revision=1)
    assert details(caught.value)[:2] == ("ABORTED", "SERIES_CHANGED")


async def test_appends_during_a_stream_are_not_seen(data, klines):
    stream = data.open_stream(START_MS, MAX_MS, batch_size=100)
    messages = [await stream.read()]
    appended = make_klines(9_000, start_ms=END_MS)
    await data.ingest(appended)
    messages += await drain(stream)
    assert_equal(join([read_columns(message.batch) for message in messages]), klines)
    found, _ = await data.stream(START_MS, MAX_MS, expected_revision=1)
    assert_equal(found, join([klines, appended]))


async def test_a_growing_block_is_never_served_stale(data):
    klines = make_klines(60)
    for end in range(10, 60, 10):
        await data.ingest(pick(klines, slice(0, end)))
        found, _ = await data.stream(START_MS, END_MS)
        assert_equal(found, pick(klines, slice(0, end)))


async def test_klines_that_come_and_go_are_counted(data, data_server, klines):
    count = len(klines["open_time_ms"])
    await data.stream(START_MS, END_MS)
    read = data_server.runtime.metrics.get_sample_value
    assert read("klinecast_data_klines_streamed_total") == count
    assert read("klinecast_data_klines_ingested_total", {"outcome": "inserted"}) == count


async def test_columns_are_those_asked_for(data, klines):
    found, _ = await data.stream(START_MS, END_MS, columns=["volume", "close"])
    assert_equal(found, {name: klines[name] for name in ("open_time_ms", "close", "volume")})


async def test_an_unknown_series_and_an_empty_range_have_reasons(data, details, klines):
    unknown = SeriesKey("BINANCE", MarketType.SPOT, "BTCUSD", Interval.H1)
    for fields, expected in (
        ({"start_ms": START_MS, "end_ms": END_MS, "key": unknown}, ("NOT_FOUND", "SERIES_NOT_FOUND")),
        ({"start_ms": 0, "end_ms": START_MS}, ("FAILED_PRECONDITION", "NO_KLINES_IN_RANGE")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await data.stream(**fields)
        assert details(caught.value)[:2] == expected


async def test_every_bad_field_is_named(data, details):
    for start_ms, end_ms, fields, expected in (
        (END_MS, START_MS, {}, ["end_time"]),
        (START_MS, START_MS, {}, ["end_time"]),
        (START_MS, MAX_MS + 60_000, {}, ["end_time"]),
        (START_MS, END_MS, {"batch_size": 0, "resume_from_ms": 1}, ["batch_size", "resume_from_ms"]),
        (START_MS, END_MS, {"batch_size": 32_769, "gap_policy": 9}, ["batch_size", "gap_policy"]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await data.stream(start_ms, end_ms, **fields)
        assert details(caught.value)[:3] == ("INVALID_ARGUMENT", "INVALID_FIELD", expected)


async def test_a_column_that_does_not_exist_is_named(data, details):
    request = pb.StreamKlinesRequest(
        series=series_to_proto(KEY),
        start_time=timestamp_to_proto(START_MS),
        end_time=timestamp_to_proto(END_MS),
        columns=[1, 0, 99],
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await data.stub.StreamKlines(request).read()
    assert details(caught.value)[:3] == ("INVALID_ARGUMENT", "INVALID_FIELD", ["columns[1]", "columns[2]"])


async def test_implied_open_times_are_left_out_where_there_is_no_gap(data, klines):
    whole = make_klines(COUNT)
    await data.ingest(pick(whole, slice(0, 1_000)))
    stream = data.open_stream(START_MS, START_MS + 3_000 * HOUR_MS, batch_size=500, implied_open_times=True)
    messages = await drain(stream)
    assert [len(message.batch.open_time_ms) > 0 for message in messages][:4] == [False, False, True, True]
    for message in messages[:2]:
        assert message.next_open_time_ms - message.first_open_time_ms == 499 * HOUR_MS + 1
        assert len(message.batch.close) == 500


async def test_a_gap_is_an_error_when_asked(data, details):
    klines = make_klines(100)
    await data.ingest(pick(klines, np.delete(np.arange(100), [40, 41])))
    times = klines["open_time_ms"]
    found, _ = await data.stream(int(times[0]), int(times[40]), gap_policy=pb.GAP_POLICY_FAIL)
    assert len(found["open_time_ms"]) == 40
    for start in (0, 41):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await data.stream(int(times[start]), END_MS, gap_policy=pb.GAP_POLICY_FAIL)
        code, reason, _, metadata = details(caught.value)
        assert (code, reason) == ("FAILED_PRECONDITION", "GAP_IN_RANGE")
        assert metadata["first_open_time_ms"] == str(times[40])


async def test_a_stalled_reader_holds_no_connection(data, data_server, klines):
    streams = [data.open_stream(START_MS, END_MS, batch_size=100) for _ in range(30)]
    for stream in streams:
        await stream.read()
    assert (await data.get()).kline_count == len(klines["open_time_ms"])
    for stream in streams:
        stream.cancel()


async def test_streams_end_resumable_when_the_service_stops(data, data_server, details, klines):
    stream = data.open_stream(START_MS, END_MS, batch_size=1)
    await stream.read()
    data_server.runtime.shutdown.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drain(stream)
    assert details(caught.value)[:2] == ("UNAVAILABLE", "SHUTTING_DOWN")
