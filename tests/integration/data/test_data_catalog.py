"""What is stored: summaries, gaps, deletion, lists, and the plans of the queries."""

import itertools
import random

import grpc.aio
import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.importing import read_klines
from klinecast.interval import Interval, missing_between
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from services.data.statements import read_block
from services.data.tables import metadata
from services.runtime.database import sqlalchemy_url
from tests.integration.data.kline_driver import HOUR_MS, KEY, START_MS, assert_equal, make_klines, pick

COUNT = 20_000
END_MS = START_MS + COUNT * HOUR_MS


def _gaps(response):
    return [(gap.first_open_time_ms, gap.last_open_time_ms, gap.missing_count) for gap in response.gaps]


def _expected_gaps(times, interval):
    missing = missing_between(times[:-1], times[1:], interval)
    return [int(count) for count in missing[missing > 0]]


async def _all_pages(data, page_size, **fields):
    token, found = "", []
    for _ in range(1_000):
        page = await data.gaps(page_size=page_size, page_token=token, **fields)
        assert len(page.gaps) <= page_size
        found += _gaps(page)
        token = page.next_page_token
        if not token:
            return found
    raise AssertionError("the list does not end")


@pytest.mark.parametrize("interval", [Interval.M1, Interval.H1, Interval.W1, Interval.MONTH])
async def test_gaps_are_what_is_missing(data, interval):
    key = SeriesKey("BINANCE", MarketType.SPOT, "X", interval)
    count = 20_000 if interval in (Interval.M1, Interval.H1) else 300
    start_ms = START_MS if interval in (Interval.M1, Interval.H1) else 345_600_000 if interval is Interval.W1 else 0
    kept = np.random.default_rng(7).random(count) > 0.02
    kept[[0, -1]] = True
    klines = pick(make_klines(count, interval=interval, start_ms=start_ms), kept)
    await data.ingest(klines, key=key)
    found = await _all_pages(data, 17, key=key)
    assert [count for _, _, count in found] == _expected_gaps(klines["open_time_ms"], interval)
    assert (await data.get(key)).gap_count == len(found)
    assert not {first for first, _, _ in found} & set(klines["open_time_ms"].tolist())
    assert all(after[0] > before[1] for before, after in itertools.pairwise(found))


async def test_gaps_across_blocks_and_whole_blocks_are_one(data):
    klines = make_klines(40_000)
    await data.ingest(pick(klines, np.r_[0:100, 35_000:40_000]), size=1_000)
    assert _gaps(await data.gaps()) == [
        (klines["open_time_ms"][100], klines["open_time_ms"][34_999], 34_900),
    ]
    assert (await data.get()).gap_count == 1


async def test_a_filled_gap_is_gone(data):
    klines = make_klines(COUNT)
    holes = np.r_[100:103, 9_000:9_001, 19_000:19_500]
    await data.ingest(pick(klines, np.delete(np.arange(COUNT), holes)))
    assert [count for _, _, count in _gaps(await data.gaps())] == [3, 1, 500]
    await data.ingest(pick(klines, holes[:-1]))
    assert _gaps(await data.gaps()) == [(klines["open_time_ms"][19_499],) * 2 + (1,)]
    assert (await data.get()).gap_count == 1


async def test_gaps_are_found_by_range(data):
    klines = make_klines(100)
    await data.ingest(pick(klines, np.delete(np.arange(100), [20, 21, 22, 60])))
    times = klines["open_time_ms"]
    for start, end, expected in (
        (0, 20, []),
        (0, 21, [3]),
        (22, 60, [3]),
        (23, 61, [1]),
        (21, 90, [3, 1]),
        (61, 99, []),
    ):
        response = await data.gaps(
            start_time=timestamp_to_proto(int(times[start])), end_time=timestamp_to_proto(int(times[end]))
        )
        assert [gap.missing_count for gap in response.gaps] == expected, (start, end)


async def test_the_real_halt_is_the_only_gap(data, shared_data):
    path = shared_data / "data" / "spot" / "1h" / "BTCUSDT-1h-2022-01_2026-04.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    for batch in read_klines(path):
        assert not (await data.ingest(batch.columns)).rejected
    summary = await data.get()
    assert (summary.kline_count, summary.gap_count) == (37_919, 1)
    halt_ms = 1_679_662_800_000  # 2023-03-24 13:00
    assert _gaps(await data.gaps()) == [(halt_ms, halt_ms, 1)]


async def test_deleted_klines_are_gone_and_the_sums_are_right(data):
    klines = make_klines(COUNT)
    await data.ingest(klines)
    left = np.ones(COUNT, dtype=bool)
    for revision in range(2, 6):
        first, last = sorted(random.sample(range(COUNT), 2))
        response = await data.delete(START_MS + first * HOUR_MS, START_MS + last * HOUR_MS)
        assert response.deleted == left[first:last].sum()
        assert response.revision <= revision
        left[first:last] = False
        summary, kept = await data.get(), pick(klines, left)
        assert summary.kline_count == left.sum()
        if not left.any():
            break
        assert summary.first_open_time_ms == kept["open_time_ms"][0]
        assert summary.last_open_time_ms == kept["open_time_ms"][-1]
        assert summary.gap_count == len(_expected_gaps(kept["open_time_ms"], Interval.H1))
        found, _ = await data.stream(START_MS, END_MS)
        assert_equal(found, kept)


async def test_a_series_emptied_by_a_delete_can_be_filled_again(data):
    klines = make_klines(100)
    await data.ingest(klines)
    assert (await data.delete(START_MS, END_MS)).deleted == 100
    summary = await data.get()
    assert (summary.kline_count, summary.revision) == (0, 2)
    assert not summary.HasField("first_open_time_ms")
    assert not summary.HasField("last_open_time_ms")
    assert not (await data.gaps()).gaps
    assert (await data.delete(START_MS, END_MS)).revision == 2
    await data.ingest(klines)
    found, _ = await data.stream(START_MS, END_MS)
    assert_equal(found, klines)


async def test_series_are_listed_in_pages_that_stay_stable(data):
    keys = [
        SeriesKey("BINANCE", market_type, symbol, interval)
        for market_type in (MarketType.LINEAR_PERPETUAL, MarketType.SPOT)
        for symbol in ("ADAUSDT", "BTCUSDT", "btcusdt")
        for interval in (Interval.M1, Interval.H1, Interval.D1, Interval.MONTH)
    ]
    for key in random.sample(keys, len(keys)):
        await data.ingest(make_klines(1, interval=key.interval), key=key)
    found, token = [], ""
    while True:
        page = await data.stub.ListSeries(pb.ListSeriesRequest(page_size=5, page_token=token))
        found += [summary.series for summary in page.series]
        if len(found) == 10:
            earlier = SeriesKey("AAA", MarketType.SPOT, "A", Interval.H1)
            await data.ingest(make_klines(1), key=earlier)
        token = page.next_page_token
        if not token:
            break
    assert found == [series_to_proto(key) for key in keys]
    by_symbol = await data.stub.ListSeries(pb.ListSeriesRequest(symbol="BTCUSDT", venue="BINANCE"))
    assert len(by_symbol.series) == 8


async def test_unknown_series_are_not_found_everywhere(data, details):
    for call in (data.get(), data.gaps(), data.delete(START_MS, END_MS)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert details(caught.value)[:2] == ("NOT_FOUND", "SERIES_NOT_FOUND")


async def test_bad_requests_name_every_field(data, details):
    bad = series_to_proto(KEY)
    bad.venue, bad.interval = "binance", 77
    for call, expected in (
        (data.stub.GetSeries(pb.GetSeriesRequest(series=bad)), ["series.venue", "series.interval"]),
        (data.stub.ListSeries(pb.ListSeriesRequest(page_size=0)), ["page_size"]),
        (data.stub.ListSeries(pb.ListSeriesRequest(venue="a", symbol="\0")), ["venue", "symbol"]),
        (data.stub.ListSeries(pb.ListSeriesRequest(page_token="AAAA")), ["page_token"]),
        (
            data.gaps(page_size=1_001, start_time=timestamp_to_proto(5), end_time=timestamp_to_proto(5)),
            ["end_time", "page_size"],
        ),
        (data.delete(END_MS, START_MS), ["end_time"]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert details(caught.value)[2] == expected


def test_the_migrations_make_the_tables(database_url):
    engine = sa.create_engine(sqlalchemy_url(database_url), poolclass=sa.NullPool)
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, parents: kind != "schema" or name == "data",
        "include_object": lambda thing, name, kind, reflected, other: name != "alembic_version",
    }
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


async def test_blocks_are_read_by_the_covering_key(data, database_url):
    await data.ingest(make_klines(COUNT))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE data.klines")
        parameters = {"series_id": 1, "block": 58, "first": START_MS, "last": START_MS + 500 * HOUR_MS}
        rows = connection.execute("EXPLAIN " + read_block(("open", "close")), parameters).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "Index Only Scan using klines_pkey" in plan
    assert "Seq Scan on klines" not in plan
    assert "Sort" not in plan
