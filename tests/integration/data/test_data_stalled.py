"""A reader that stops reading is ended, and what it held is free again."""

import asyncio

import grpc.aio
import pytest

from klinecast.api.data.v1 import data_service_pb2_grpc
from services.data.app import MIGRATIONS, build_app
from services.data.settings import DataSettings
from services.runtime.config import DatabaseSettings, LimitSettings
from services.runtime.server import running
from tests.integration.data.kline_driver import HOUR_MS, START_MS, DataDriver, drain, make_klines

COUNT = 200_000
STALL_S = 0.5


@pytest.fixture
async def stalling(database_url):
    """Return the service, patient for half a second, with a long series, and a client whose window is small."""
    settings = DataSettings(
        database=DatabaseSettings(url=database_url),
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        limits=LimitSettings(stream_stall_s=STALL_S),
    )
    async with running("data", settings, build_app, migrations=MIGRATIONS) as server:
        await server.migrating
        options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
        async with grpc.aio.insecure_channel(server.target, options=options) as channel:
            data = DataDriver(data_service_pb2_grpc.DataServiceStub(channel))
            await data.ingest(make_klines(COUNT))
            yield server, data


def count(server, name) -> float:
    """Add up a counter of calls over its labels, for StreamKlines."""
    samples = (sample for metric in server.runtime.metrics.collect() for sample in metric.samples)
    return sum(one.value for one in samples if one.name == name and one.labels["grpc_method"] == "StreamKlines")


async def test_a_reader_that_stops_is_ended_with_its_reason(stalling, details):
    server, data = stalling
    streams = [data.open_stream(START_MS, START_MS + COUNT * HOUR_MS, batch_size=32_768) for _ in range(5)]
    for stream in streams:
        await stream.read()
    assert (count(server, "grpc_server_started_total"), count(server, "grpc_server_handled_total")) == (5, 0)
    async with asyncio.timeout(10):
        while count(server, "grpc_server_handled_total") < 5:  # noqa: ASYNC110
            await asyncio.sleep(STALL_S / 10)
    for stream in streams:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(stream)
        assert details(caught.value)[:2] == ("RESOURCE_EXHAUSTED", "READER_STALLED")


async def test_a_slow_reader_is_not_a_stalled_one(stalling):
    _, data = stalling
    stream = data.open_stream(START_MS, START_MS + COUNT * HOUR_MS, batch_size=32_768)
    found = 0
    while (message := await stream.read()) is not grpc.aio.EOF:
        found += len(message.batch.open_time_ms)
        await asyncio.sleep(STALL_S / 3)
    assert found == COUNT
