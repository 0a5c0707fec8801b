"""Every file of real klines through the reader into the service and back, against what is known of each."""

import re
import uuid

import numpy as np
import pytest

from klinecast.importing import ImportFormatError, find_files, read_klines
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from tests.integration.data.kline_driver import assert_equal, join, pick

FOREIGN = "dirty/FACSIMILE-mixed-units-duplicates-BTCUSDT-1h-2020-11.csv"
MAX_MS = 4_102_444_800_000
HOURS = "1h-2022-01_2026-04.csv.gz"
HALT = [1]
"""2023-03-24 13:00."""
FILES = [
    (f"spot/1h/BTCUSDT-{HOURS}", Interval.H1, 37_919, 0, HALT),
    (f"spot/1h/ETHUSDT-{HOURS}", Interval.H1, 37_919, 0, HALT),
    (f"spot/1h/BNBUSDT-{HOURS}", Interval.H1, 37_919, 0, HALT),
    (f"spot/1h/SOLUSDT-{HOURS}", Interval.H1, 37_919, 0, HALT),
    ("spot/1d/BTCUSDT-1d.csv.gz", Interval.D1, 3_178, 0, []),
    ("spot/1d/ETHUSDT-1d.csv.gz", Interval.D1, 3_178, 0, []),
    ("spot/1m/BTCUSDT-1m-2024.csv.gz", Interval.M1, 527_040, 0, []),
    ("raw_dump/spot/BTCUSDT-1h-2024-12.csv", Interval.H1, 744, 0, []),
    ("raw_dump/spot/BTCUSDT-1h-2025-01.csv", Interval.H1, 744, 0, []),
    ("raw_dump/spot/ADABTC-1m-2021-11-27.csv", Interval.M1, 10, 0, []),
    ("raw_dump/spot/ADABTC-1m-2021-11-28.csv", Interval.M1, 11, 0, []),
    ("raw_dump/futures_um/LTCUSDT-1m-2026-02.csv.gz", Interval.M1, 40_320, 0, []),
    ("dirty/BTCUSDT-1m-2017-12-18.csv", Interval.M1, 4_243, 2_041, [64]),
    ("dirty/BTCUSDT-1m-2023-03-24.csv", Interval.M1, 2_800, 0, [80]),
    ("dirty/FTTUSDT-1h-2022-11_12-dead-market.csv", Interval.H1, 1_464, 0, []),
]
"""Path, interval, rows, rows off the grid of the interval, klines missing in each gap between the others.

Of the 76 klines missing in the file of 2017 the first 12 follow rows off the grid: nothing is stored before them.
"""


@pytest.fixture
def open_file(shared_data):
    """Return a function that finds a file of real klines or skips."""

    def find(name):
        path = shared_data / "data" / name
        if not path.exists():
            pytest.skip(f"the real data has no {name}")
        return path

    return find


@pytest.fixture
def client(suite):
    """Return a client of the services."""
    with suite.client() as client:
        yield client


@pytest.mark.parametrize(("name", "interval", "rows", "off_grid", "gaps"), FILES)
def test_a_real_file_comes_back_as_it_was(client, open_file, name, interval, rows, off_grid, gaps):
    key = SeriesKey(f"IMPORT-{uuid.uuid4().hex[:8].upper()}", MarketType.SPOT, "X", interval)
    batches = [batch.columns for batch in read_klines(open_file(name))]
    summary = client.ingest_klines(key, batches)
    assert (summary.inserted, summary.updated, summary.unchanged) == (rows - off_grid, 0, 0)
    assert summary.rejected == off_grid
    assert {(one.field, one.reason) for one in summary.rejections} <= {("open_time_ms", "UNALIGNED")}
    assert client.get_series(key).kline_count == rows - off_grid
    assert [gap.missing_count for gap in client.list_gaps(key)] == gaps
    sent = join(batches)
    found = join([batch.columns for batch in client.stream_klines(key, 0, MAX_MS, columns=list(sent)[1:])])
    assert_equal(found, pick(sent, sent["open_time_ms"] % interval.span_ms == 0))


def test_no_real_file_is_left_out(shared_data):
    found = find_files([shared_data / "data"])
    names = {str(path.relative_to(shared_data / "data")) for path in found.files}
    assert names == {name for name, *_ in FILES} | {FOREIGN}
    assert {path.name for path in found.skipped} == {"README.md"}


def test_the_table_says_what_the_readme_of_the_data_says(open_file):
    listed = {
        name: int(rows)
        for names, rows in re.findall(r"^\| (\S+)[^|]* \| (\d+)[^|]* \|", open_file("README.md").read_text(), re.M)
        for name in expand(names)
    }
    counts = {name: rows for name, _, rows, *_ in FILES}
    assert listed.pop(FOREIGN) == 392
    assert {name: counts[name] for name in listed} == listed


def expand(names):
    """Read {A,B}USDT as two names."""
    match = re.search(r"\{(.+)\}", names)
    return [names.replace(match[0], one) for one in match[1].split(",")] if match else [names.rstrip(",")]


def test_a_foreign_file_is_refused_with_both_headers(open_file):
    path = open_file(FOREIGN)
    with pytest.raises(ImportFormatError, match=r"line 1: has the header 'unix,date,symbol.*expected 'open_time,open"):
        list(read_klines(path))


def test_its_mixed_units_are_refused_under_any_header(open_file, tmp_path):
    rows = [line.split(",") for line in open_file(FOREIGN).read_text().splitlines()[1:]]
    path = tmp_path / "renamed.csv"
    path.write_text("".join(",".join([row[0], *row[3:8], "", "", "", "", "", ""]) + "\n" for row in rows))
    first = next(number for number, row in enumerate(rows, 1) if row[0].endswith(".0"))
    with pytest.raises(ImportFormatError, match=r"1605855600 is not a time in .*seconds are not accepted") as caught:
        list(read_klines(path))
    assert caught.value.line == first


def test_newest_first_and_repeats_are_stored_once_oldest_first(client, open_file, tmp_path):
    lines = open_file("raw_dump/spot/BTCUSDT-1h-2024-12.csv").read_text().splitlines(keepends=True)
    path = tmp_path / "reversed.csv"
    path.write_text("".join([*reversed(lines), *lines[:128]]))
    key = SeriesKey(f"IMPORT-{uuid.uuid4().hex[:8].upper()}", MarketType.SPOT, "X", Interval.H1)
    summary = client.ingest_klines(key, (batch.columns for batch in read_klines(path)))
    assert (summary.inserted, summary.updated, summary.unchanged, summary.rejected) == (744, 0, 128, 0)
    assert np.all(np.diff(client.load_klines(key, 0, MAX_MS).klines.open_time_ms) == 3_600_000)
