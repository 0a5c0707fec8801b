"""Parquet by column names: every way times are written, and what is wrong told by file and column."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from klinecast.importing import ImportFormatError, read_klines
from tests.factories import make_columns

COLUMNS = make_columns(40_000)


def write(path, times, **changes):
    named = {name: values for name, values in COLUMNS.items() if name != "open_time_ms"} | changes
    pq.write_table(pa.table({"open_time": times, **named}), path, row_group_size=9_000)
    return path


def read(path):
    batches = list(read_klines(path))
    assert max(len(batch) for batch in batches) <= 32_768
    assert batches[-1].fraction == 1.0
    return {name: np.concatenate([one.columns[name] for one in batches]) for name in batches[0].columns}


@pytest.mark.parametrize(
    "times",
    [
        pa.array(COLUMNS["open_time_ms"]),
        pa.array(COLUMNS["open_time_ms"] * 1000),
        pa.array(COLUMNS["open_time_ms"]).view(pa.timestamp("ms", "UTC")),
        pa.array(COLUMNS["open_time_ms"] * 1_000_000).view(pa.timestamp("ns")),
    ],
    ids=["ms", "us", "timestamp", "nanoseconds"],
)
def test_klines_come_back_as_they_were(tmp_path, times):
    found = read(write(tmp_path / "k.parquet", times, count=np.arange(40_000), quote_asset_volume=COLUMNS["volume"]))
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(found["trade_count"], np.arange(40_000))
    np.testing.assert_array_equal(found["quote_volume"], COLUMNS["volume"])


@pytest.mark.parametrize(
    ("times", "changes", "problem"),
    [
        (COLUMNS["open_time_ms"] // 1000, {}, "not all in milliseconds"),
        (COLUMNS["open_time_ms"] * 1000 + 1, {}, "no whole millisecond"),
        (COLUMNS["open_time_ms"].astype(str), {}, "column open_time holds string"),
        (COLUMNS["open_time_ms"], {"close": ["x"] * 40_000}, "column close is not a column of numbers"),
        (COLUMNS["open_time_ms"], {"high": pa.nulls(40_000, pa.float64())}, "column high has missing values"),
    ],
)
def test_what_is_wrong_is_told_by_column(tmp_path, times, changes, problem):
    with pytest.raises(ImportFormatError, match=problem):
        list(read_klines(write(tmp_path / "k.parquet", times, **changes)))


def test_a_missing_column_and_a_foreign_file_are_told(tmp_path):
    pq.write_table(pa.table({"open_time": COLUMNS["open_time_ms"], "close": COLUMNS["close"]}), tmp_path / "a.parquet")
    with pytest.raises(ImportFormatError, match="has no column open, high, low, volume; it has open_time, close"):
        list(read_klines(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_text("no parquet")
    with pytest.raises(ImportFormatError, match="is no readable Parquet file"):
        list(read_klines(tmp_path / "b.parquet"))


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "k.parquet", COLUMNS["open_time_ms"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportFormatError, match=r"pip install 'klinecast\[parquet\]'"):
        list(read_klines(path))
