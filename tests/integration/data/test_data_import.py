"""Files of real klines through the reader into the service and back."""

import pytest

from klinecast.importing import ImportFormatError, read_klines
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from tests.integration.data.kline_driver import assert_equal, join

MAX_MS = 4_102_444_800_000
FILES = [
    ("raw_dump/spot/BTCUSDT-1h-2024-12.csv", Interval.H1, 744, 0),
    ("raw_dump/spot/BTCUSDT-1h-2025-01.csv", Interval.H1, 744, 0),
    ("raw_dump/spot/ADABTC-1m-2021-11-27.csv", Interval.M1, 10, 0),
    ("raw_dump/futures_um/LTCUSDT-1m-2026-02.csv.gz", Interval.M1, 40_320, 0),
    ("spot/1d/ETHUSDT-1d.csv.gz", Interval.D1, 3_178, 0),
    ("dirty/BTCUSDT-1m-2023-03-24.csv", Interval.M1, 2_800, 0),
    ("dirty/FTTUSDT-1h-2022-11_12-dead-market.csv", Interval.H1, 1_464, 0),
    ("dirty/BTCUSDT-1m-2017-12-18.csv", Interval.M1, 4_243, 2_041),
]


@pytest.fixture
def open_file(shared_data):
    """Return a function that finds a file of real klines or skips."""

    def find(name):
        path = shared_data / "data" / name
        if not path.exists():
            pytest.skip(f"the real data has no {name}")
        return path

    return find


@pytest.mark.parametrize(("name", "interval", "rows", "unaligned"), FILES)
async def test_a_real_file_comes_back_as_it_was(data, open_file, name, interval, rows, unaligned):
    key = SeriesKey("BINANCE", MarketType.SPOT, "X", interval)
    batches = list(read_klines(open_file(name)))
    for batch in batches:
        response = await data.ingest(batch.columns, key=key)
        assert response.rejected == unaligned
        assert {one.reason for one in response.rejections} <= {"UNALIGNED"}
    sent = join([batch.columns for batch in batches])
    assert len(sent["open_time_ms"]) == rows
    found, messages = await data.stream(0, MAX_MS, key=key, columns=list(sent)[1:])
    assert messages[-1].klines_total == rows - unaligned
    if not unaligned:
        assert_equal(found, sent)


def test_a_foreign_file_is_refused_with_both_headers(open_file):
    path = open_file("dirty/FACSIMILE-mixed-units-duplicates-BTCUSDT-1h-2020-11.csv")
    with pytest.raises(ImportFormatError, match=r"line 1: has the header 'unix,date,symbol.*expected 'open_time,open"):
        list(read_klines(path))
