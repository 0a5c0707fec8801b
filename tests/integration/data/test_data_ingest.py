"""Ingest: counts, checks, transactions, racing writers."""

import asyncio

import grpc.aio
import numpy as np
import pytest

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.convert.market import series_to_proto
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from tests.integration.data.kline_driver import HOUR_MS, KEY, START_MS, assert_equal, make_klines, pick

END_MS = START_MS + 400 * HOUR_MS


def _counts(response: pb.IngestKlinesResponse) -> tuple[int, int, int, int, int]:
    return response.inserted, response.updated, response.unchanged, response.rejected, response.revision


async def test_klines_come_back_as_they_were_sent(data):
    klines = make_klines(300)
    assert _counts(await data.ingest(klines)) == (300, 0, 0, 0, 1)
    found, _ = await data.stream(START_MS, END_MS)
    assert_equal(found, klines)


async def test_sending_again_changes_nothing(data):
    klines = make_klines(300)
    await data.ingest(klines)
    assert _counts(await data.ingest(klines)) == (0, 0, 300, 0, 1)
    assert (await data.get()).kline_count == 300


async def test_only_klines_with_other_values_are_updated(data):
    klines = make_klines(300)
    await data.ingest(klines)
    klines["volume"][7] += 1
    klines["volume"][9] += 1
    assert _counts(await data.ingest(klines)) == (0, 2, 298, 0, 2)
    found, _ = await data.stream(START_MS, END_MS)
    assert_equal(found, klines)


async def test_each_batch_is_one_revision(data):
    assert _counts(await data.ingest(make_klines(300), size=100)) == (300, 0, 0, 0, 3)


async def test_klines_may_come_in_any_order(data):
    klines = make_klines(300)
    await data.ingest(pick(klines, np.random.default_rng(3).permutation(300)))
    found, _ = await data.stream(START_MS, END_MS)
    assert_equal(found, klines)


async def test_optional_columns_keep_what_is_missing(data):
    klines = make_klines(4)
    klines["quote_volume"] = np.asarray([1.5, np.nan, 0.0, 2.0])
    klines["trade_count"] = np.asarray([7, -1, 0, 9])
    await data.ingest(klines)
    found, _ = await data.stream(START_MS, END_MS, columns=["quote_volume", "trade_count", "taker_buy_base_volume"])
    expected = pick(klines, slice(None)) | {"taker_buy_base_volume": np.full(4, np.nan)}
    assert_equal(found, {name: expected[name] for name in found})
    assert set(found) == {"open_time_ms", "quote_volume", "trade_count", "taker_buy_base_volume"}


BAD = [
    ("open", np.nan, "NOT_FINITE"),
    ("close", np.inf, "NOT_FINITE"),
    ("low", 0.0, "NOT_POSITIVE"),
    ("open", -1.0, "NOT_POSITIVE"),
    ("open", 1e6, "HIGH_BELOW_OPEN"),
    ("close", 1e6, "HIGH_BELOW_CLOSE"),
    ("close", 1e-6, "LOW_ABOVE_CLOSE"),
    ("open", 1e-6, "LOW_ABOVE_OPEN"),
    ("volume", -0.5, "NEGATIVE"),
    ("volume", np.nan, "NOT_FINITE"),
    ("open_time_ms", START_MS + 1, "UNALIGNED"),
    ("open_time_ms", -HOUR_MS, "OUT_OF_RANGE"),
    ("open_time_ms", 5_000_000_000_000, "OUT_OF_RANGE"),
    ("open_time_ms", START_MS, "DUPLICATE"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BAD)
async def test_a_bad_kline_is_left_out_and_reported(data, column, value, reason):
    klines = make_klines(20)
    klines[column][13] = value
    response = await data.ingest(klines, size=10)
    expected = (19, 0, 0, 1) if reason != "DUPLICATE" else (19, 1, 0, 0)  # its twin is in the batch before
    assert _counts(response)[:4] == expected
    if reason != "DUPLICATE":
        assert [(one.index, one.reason) for one in response.rejections] == [(13, reason)]
        assert response.rejections[0].open_time_ms == klines["open_time_ms"][13]


@pytest.mark.parametrize(("column", "value", "reason"), BAD)
async def test_a_bad_kline_fails_its_batch_when_asked_to(data, details, column, value, reason):
    klines = make_klines(20)
    klines[column][13] = value
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await data.ingest(klines, on_invalid=pb.ON_INVALID_FAIL)
    code, found_reason, fields, _ = details(caught.value)
    assert (code, found_reason) == ("INVALID_ARGUMENT", "INVALID_KLINE")
    assert len(fields) == 1
    assert fields[0].endswith("[13]")
    assert reason in caught.value.details()
    assert "row 13" in caught.value.details()
    assert not (await data.stub.ListSeries(pb.ListSeriesRequest())).series


async def test_equal_twins_in_a_batch_are_one_kline(data):
    klines = pick(make_klines(5), [0, 1, 1, 2, 3, 4, 4])
    assert _counts(await data.ingest(klines)) == (5, 0, 2, 0, 1)


async def test_the_later_of_two_different_twins_is_rejected(data):
    klines = pick(make_klines(5), [0, 1, 1, 2, 3, 4])
    klines["volume"][2] += 1
    response = await data.ingest(klines)
    assert _counts(response) == (5, 0, 0, 1, 1)
    assert [(one.index, one.reason) for one in response.rejections] == [(2, "DUPLICATE")]
    found, _ = await data.stream(START_MS, END_MS)
    assert_equal(found, make_klines(5))


async def test_at_most_a_hundred_rejections_are_reported_all_are_counted(data):
    klines = make_klines(250)
    klines["volume"][:] = -1
    response = await data.ingest(klines, size=60)
    assert (response.rejected, len(response.rejections), response.rejections[-1].index) == (250, 100, 99)


async def test_columns_of_unequal_length_are_refused_by_name(data, details):
    klines = make_klines(20)
    klines["close"] = klines["close"][:-1]
    klines["volume"] = klines["volume"][:0]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await data.ingest(klines)
    assert details(caught.value)[:3] == ("INVALID_ARGUMENT", "INVALID_FIELD", ["batch.close", "batch.volume"])


async def test_a_batch_over_the_limit_is_refused(data, details):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await data.ingest(make_klines(32_769, interval=Interval.M1), size=40_000)
    assert details(caught.value)[:3] == ("INVALID_ARGUMENT", "INVALID_FIELD", ["batch.open_time_ms"])


async def test_the_series_is_named_first_and_stays(data, details):
    other = SeriesKey("BINANCE", MarketType.SPOT, "ETHUSDT", Interval.H1)

    async def messages(*keys):
        for key in keys:
            yield pb.IngestKlinesRequest(series=series_to_proto(key))

    for keys in ((), (KEY, other)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await data.stub.IngestKlines(messages(*keys))
        assert details(caught.value)[:3] == ("INVALID_ARGUMENT", "INVALID_FIELD", ["series"])


async def test_batches_before_a_failure_stay(data):
    klines = make_klines(30)
    klines["volume"][25] = -1
    with pytest.raises(grpc.aio.AioRpcError):
        await data.ingest(klines, size=10, on_invalid=pb.ON_INVALID_FAIL)
    assert (await data.get()).kline_count == 20


async def test_racing_writers_of_a_new_series_lose_and_double_nothing(data):
    klines = make_klines(2_000)
    responses = await asyncio.gather(*(data.ingest(klines, size=250) for _ in range(6)))
    assert sum(response.inserted for response in responses) == 2_000
    assert sum(response.unchanged for response in responses) == 10_000
    summary = await data.get()
    assert (summary.kline_count, summary.revision, summary.gap_count) == (2_000, 8, 0)


async def test_racing_writers_of_different_parts_do_not_deadlock(data):
    klines = make_klines(20_000)
    parts = [pick(klines, slice(start, None, 5)) for start in range(5)]
    await asyncio.gather(*(data.ingest(part, size=1_000) for part in parts))
    found, _ = await data.stream(START_MS, START_MS + 20_000 * HOUR_MS)
    assert_equal(found, klines)
    summary = await data.get()
    assert (summary.kline_count, summary.gap_count) == (20_000, 0)
