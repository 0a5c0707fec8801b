"""Files of real klines through the reader into the service and back."""

import pytest

from klinecast.importing import ImportFormatError, find_files, read_klines
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from tests.integration.data.kline_driver import assert_equal, join

FOREIGN = "dirty/FACSIMILE-mixed-units-duplicates-BTCUSDT-1h-2020-11.csv"
MAX_MS = 4_102_444_800_000
HOURS = "1h-2022-01_2026-04.csv.gz"
FILES = [
    (f"spot/1h/BTCUSDT-{HOURS}", Interval.H1, 37_919, 0),
    (f"spot/1h/ETHUSDT-{HOURS}", Interval.H1, 37_919, 0),
    (f"spot/1h/BNBUSDT-{HOURS}", Interval.H1, 37_919, 0),
    (f"spot/1h/SOLUSDT-{HOURS}", Interval.H1, 37_919, 0),
    ("spot/1m/BTCUSDT-1m-2024.csv.gz", Interval.M1, 527_040, 0),
    ("spot/1d/BTCUSDT-1d.csv.gz", Interval.D1, 3_178, 0),
    ("raw_dump/spot/ADABTC-1m-2021-11-28.csv", Interval.M1, 11, 0),
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
    rejected = 0
    for batch in batches:
        response = await data.ingest(batch.columns, key=key)
        assert (response.updated, response.unchanged) == (0, 0)
        assert {one.reason for one in response.rejections} <= {"UNALIGNED"}
        rejected += response.rejected
    assert rejected == unaligned
    sent = join([batch.columns for batch in batches])
    assert len(sent["open_time_ms"]) == rows
    found, messages = await data.stream(0, MAX_MS, key=key, columns=list(sent)[1:])
    assert messages[-1].klines_total == rows - unaligned
    if not unaligned:
        assert_equal(found, sent)


def test_no_real_file_is_left_out(shared_data):
    found = find_files([shared_data / "data"])
    names = {str(path.relative_to(shared_data / "data")) for path in found.files}
    assert names == {name for name, *_ in FILES} | {FOREIGN}


def test_a_foreign_file_is_refused_with_both_headers(open_file):
    path = open_file(FOREIGN)
    with pytest.raises(ImportFormatError, match=r"line 1: has the header 'unix,date,symbol.*expected 'open_time,open"):
        list(read_klines(path))
