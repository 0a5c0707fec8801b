"""Clients that die in the middle of an ingest leave whole batches."""

import asyncio
import contextlib
import random
import signal
import sys

import numpy as np
import pytest

from klinecast.client import Client
from tests.factories import START_MS, make_columns, make_series
from tests.suite import Suite

BATCH, BATCHES = 700, 200
_CLIENT = """
import sys
from klinecast.client import Client, Interval, SeriesKey
from klinecast.types import MarketType
from tests.factories import make_columns
columns = make_columns({rows})
parts = ({{name: values[at : at + {batch}] for name, values in columns.items()}} for at in range(0, {rows}, {batch}))
with Client(data=sys.argv[1]) as client:
    client.ingest_klines(SeriesKey("TEST", MarketType.SPOT, sys.argv[2], Interval.H1), parts)
"""


@pytest.mark.parametrize("attempt", range(4))
async def test_a_killed_client_leaves_whole_batches(suite: Suite, attempt) -> None:
    series, rows = make_series(), BATCH * BATCHES
    code = _CLIENT.format(rows=rows, batch=BATCH)
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", code, suite.target("data"), series.symbol)
    with suite.client() as reader:
        stored = await wait_for(reader, series, BATCH * random.randrange(1, 40))
        with contextlib.suppress(ProcessLookupError):
            client.send_signal(signal.SIGKILL)
        assert await client.wait() == -signal.SIGKILL
        summary = await settled(reader, series)
        assert stored <= summary.kline_count < rows
        assert summary.kline_count % BATCH == 0
        assert summary.revision == summary.kline_count // BATCH
        klines = reader.load_klines(series, START_MS, START_MS * 2).klines
    expected = make_columns(rows)
    np.testing.assert_array_equal(klines.open_time_ms, expected["open_time_ms"][: summary.kline_count])
    np.testing.assert_array_equal(klines.close, expected["close"][: summary.kline_count])


async def wait_for(reader: Client, series, klines: int) -> int:
    async with asyncio.timeout(30):
        while True:
            found = [one for one in reader.list_series(symbol=series.symbol) if one.kline_count >= klines]
            if found:
                return found[0].kline_count
            await asyncio.sleep(0.005)


async def settled(reader: Client, series):
    """Return the summary once the service has noticed the death: it changes no more."""
    summary = reader.get_series(series)
    while True:
        await asyncio.sleep(0.3)
        if (later := reader.get_series(series)) == summary:
            return summary
        summary = later
