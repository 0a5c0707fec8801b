"""CheckSeries: what is stored, what was rewritten and what was refused, told over the wire."""

from dataclasses import replace

import grpc.aio
import numpy as np
import pytest

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.convert.checks import check_report
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.interval import Interval
from tests.integration.data.kline_driver import HOUR_MS, KEY, START_MS, make_klines, pick


async def check(data, key=KEY, **fields):
    return check_report(await data.stub.CheckSeries(pb.CheckSeriesRequest(series=series_to_proto(key), **fields)))


def counts(report):
    return {kind.value: (one.findings, one.klines) for kind, one in report.counts.items()}


async def test_a_clean_series_has_no_findings(data):
    await data.ingest(make_klines(10_000))
    report = await check(data)
    assert (report.kline_count, report.revision, report.findings, report.counts) == (10_000, 1, (), {})


async def test_everything_doubtful_is_reported(data):
    klines = make_klines(20_000)
    klines["volume"][9_000:9_100] = 0
    await data.ingest(pick(klines, np.delete(np.arange(20_000), range(5_000, 5_010))))
    changed = pick(klines, slice(100, 130))
    changed["volume"] = changed["volume"] + 1
    await data.ingest(changed)
    await data.delete(START_MS + 19_990 * HOUR_MS, START_MS + 19_995 * HOUR_MS)
    bad = pick(klines, slice(0, 8))
    bad["open_time_ms"] = bad["open_time_ms"] + np.array([0, 20_000, 20_000, 0, 0, 0, 0, 0])
    bad["high"][3] = bad["close"][3] / 2
    bad["open_time_ms"][5] = bad["open_time_ms"][4]
    await data.ingest(bad)
    report = await check(data)
    assert counts(report) == {
        "GAP": (2, 15),
        "ZERO_VOLUME": (1, 100),
        "REWRITTEN": (2, 35),
        "OFF_GRID": (1, 2),
        "DUPLICATE": (1, 1),
        "INVALID": (1, 1),
    }
    assert [one.reason for one in report.findings if one.kind == "INVALID"] == ["high HIGH_BELOW_OPEN"]
    inside = await check(data, start_time=timestamp_to_proto(START_MS + 5_005 * HOUR_MS), zero_volume_klines=101)
    assert "ZERO_VOLUME" not in counts(inside)


async def test_bounds_are_told(data, details):
    await data.ingest(make_klines(10))
    for fields, expected in (
        ({"jump_bound": 0, "max_findings": 0}, ["jump_bound", "max_findings"]),
        ({"zero_volume_klines": 0}, ["zero_volume_klines"]),
        ({"start_time": timestamp_to_proto(5), "end_time": timestamp_to_proto(5)}, ["end_time"]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(data, **fields)
        assert details(caught.value)[:3] == ("INVALID_ARGUMENT", "INVALID_FIELD", expected)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(data, replace(KEY, interval=Interval.H4))
    assert details(caught.value)[:2] == ("NOT_FOUND", "SERIES_NOT_FOUND")


async def test_a_range_without_klines_is_empty_not_an_error(data):
    await data.ingest(make_klines(10))
    report = await check(data, end_time=timestamp_to_proto(START_MS))
    assert (report.kline_count, report.revision, report.findings) == (0, 1, ())
