"""Klines made from a seed, and a driver of the data service for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import grpc.aio
import numpy as np

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1 import data_service_pb2_grpc
from klinecast.columns import Column, encode_columns, read_columns
from klinecast.convert.data import columns_to_proto
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.interval import Interval, next_open
from klinecast.series import SeriesKey
from klinecast.types import MarketType

START_MS = 1_704_067_200_000  # 2024-01-01, a Monday
HOUR_MS = 3_600_000
KEY = SeriesKey("BINANCE", MarketType.SPOT, "BTCUSDT", Interval.H1)
Columns = Mapping[str, Column]


def make_klines(
    count: int, *, interval: Interval = Interval.H1, start_ms: int = START_MS, seed: int = 1
) -> dict[str, Column]:
    """Return klines without a gap, all five required columns."""
    random = np.random.default_rng(seed)
    times = [start_ms]
    while len(times) < count:
        times.append(next_open(times[-1], interval))
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.001, count)))
    open_ = np.concatenate(([100.0], close[:-1]))
    return {
        "open_time_ms": np.asarray(times[:count], dtype=np.int64),
        "open": open_,
        "high": np.maximum(open_, close) * 1.001,
        "low": np.minimum(open_, close) * 0.999,
        "close": close,
        "volume": random.random(count),
    }


def pick(columns: Columns, rows: object) -> dict[str, Column]:
    """Return some rows, by slice, mask or index."""
    return {name: values[rows] for name, values in columns.items()}  # type: ignore[index]


def join(parts: Sequence[Columns]) -> dict[str, Column]:
    """Return the parts as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def assert_equal(found: Columns, expected: Columns) -> None:
    """Compare bit for bit, NaN equal to NaN."""
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


async def drain(stream) -> list[pb.StreamKlinesResponse]:
    """Read what is left of a stream."""
    return [message async for message in _messages(stream)]


async def _messages(stream):
    while (message := await stream.read()) is not grpc.aio.EOF:
        yield message


@dataclass(slots=True)
class DataDriver:
    """Calls the service as a client would."""

    stub: data_service_pb2_grpc.DataServiceAsyncStub

    async def ingest(
        self, columns: Columns, *, key: SeriesKey = KEY, size: int = 32_768, on_invalid: int = pb.ON_INVALID_UNSPECIFIED
    ) -> pb.IngestKlinesResponse:
        """Send klines in messages of `size`."""

        async def messages() -> AsyncIterator[pb.IngestKlinesRequest]:
            for start in range(0, max(1, len(columns["open_time_ms"])), size):
                message = pb.IngestKlinesRequest(series=series_to_proto(key), on_invalid=on_invalid)
                encode_columns(message.batch, pick(columns, slice(start, start + size)))
                yield message

        return await self.stub.IngestKlines(messages())

    def open_stream(
        self, start_ms: int, end_ms: int, *, key: SeriesKey = KEY, columns: Sequence[str] = (), **fields: object
    ):
        """Start a stream."""
        request = pb.StreamKlinesRequest(
            series=series_to_proto(key),
            start_time=timestamp_to_proto(start_ms),
            end_time=timestamp_to_proto(end_ms),
            columns=columns_to_proto(columns),
            **fields,
        )
        return self.stub.StreamKlines(request)

    async def stream(
        self, start_ms: int, end_ms: int, **fields: object
    ) -> tuple[dict[str, Column], list[pb.StreamKlinesResponse]]:
        """Read a stream to its end; return its klines and its messages."""
        messages = [message async for message in self.open_stream(start_ms, end_ms, **fields)]
        return join([read_columns(message.batch) for message in messages]), messages

    async def get(self, key: SeriesKey = KEY):
        """Return the summary of a series."""
        return (await self.stub.GetSeries(pb.GetSeriesRequest(series=series_to_proto(key)))).series

    async def gaps(self, key: SeriesKey = KEY, **fields: object) -> pb.ListGapsResponse:
        """List gaps."""
        return await self.stub.ListGaps(pb.ListGapsRequest(series=series_to_proto(key), **fields))

    async def delete(self, start_ms: int, end_ms: int, *, key: SeriesKey = KEY) -> pb.DeleteKlinesResponse:
        """Delete a range."""
        return await self.stub.DeleteKlines(
            pb.DeleteKlinesRequest(
                series=series_to_proto(key),
                start_time=timestamp_to_proto(start_ms),
                end_time=timestamp_to_proto(end_ms),
            )
        )
