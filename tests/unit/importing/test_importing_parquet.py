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


def change(values, row, value):
    changed = values.tolist()
    changed[row] = value
    return pa.array(changed)


TIMES = COLUMNS["open_time_ms"]


@pytest.mark.parametrize(
    ("times", "changes", "problem"),
    [
        (change(TIMES, 35_000, 1_704_067_200), {}, "open_time, row 35,001: 1704067200 is not .*seconds are not"),
        (change(TIMES, 5, TIMES[5] * 1000), {}, "open_time, row 6: .* milliseconds and microseconds are mixed"),
        (np.where(np.arange(40_000) < 32_768, TIMES, TIMES * 1000), {}, "open_time, row 32,769: .*are mixed"),
        (change(TIMES, 7, None), {}, "open_time, row 8: is missing"),
        (TIMES * 1000 + 1, {}, "open_time, row 1: .* not a whole millisecond"),
        (pa.array(TIMES * 1000 + 1).view(pa.timestamp("us")), {}, "open_time, rows from 1: .* would lose data"),
        (TIMES.astype(str), {}, "open_time, row 1: holds string, not timestamps or integers"),
        (TIMES, {"close": ["x"] * 40_000}, "close, rows from 1: .*'x'"),
        (TIMES, {"close": pa.array(TIMES).view(pa.timestamp("ms"))}, "close, rows from 1: Unsupported cast"),
        (TIMES, {"high": change(COLUMNS["high"], 33_000, None)}, "high, row 33,001: is missing"),
        (TIMES, {"count": change(TIMES, 1, 2.5)}, "count, row 2: 2.5 is not a number of trades"),
    ],
)
def test_what_is_wrong_is_told_by_column(tmp_path, times, changes, problem):
    with pytest.raises(ImportFormatError, match=rf"^k.parquet: column {problem}"):
        list(read_klines(write(tmp_path / "k.parquet", times, **changes)))


def test_a_missing_column_and_a_foreign_file_are_told(tmp_path):
    pq.write_table(pa.table({"open_time": COLUMNS["open_time_ms"], "close": COLUMNS["close"]}), tmp_path / "a.parquet")
    with pytest.raises(ImportFormatError, match="has no column open, high, low, volume; it has open_time, close"):
        list(read_klines(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_text("no parquet")
    with pytest.raises(ImportFormatError, match="is no readable Parquet file"):
        list(read_klines(tmp_path / "b.parquet"))


def test_missing_values_of_optional_columns_stay_missing(tmp_path):
    found = read(write(tmp_path / "k.parquet", TIMES, Count=change(TIMES, 0, None), quote_volume=pa.nulls(40_000)))
    assert list(found["trade_count"][:2]) == [-1, TIMES[1]]
    assert np.isnan(found["quote_volume"]).all()


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table(
        [TIMES, *([COLUMNS["close"]] * 6)], ["open_time", "open", "high", "low", "close", "Close", "volume"]
    )
    pq.write_table(table, tmp_path / "k.parquet")
    with pytest.raises(ImportFormatError, match="has more than one column close, Close"):
        list(read_klines(tmp_path / "k.parquet"))


def test_a_large_row_group_is_not_held_in_memory(tmp_path):
    rows = 1_000_000
    noise = np.random.default_rng(1).random(rows)
    columns = dict.fromkeys(("open", "high", "low", "close", "volume"), noise)
    path = tmp_path / "k.parquet"
    pq.write_table(pa.table({"open_time": TIMES[0] + 60_000 * np.arange(rows), **columns}), path, row_group_size=rows)
    held = [pa.total_allocated_bytes() for _ in read_klines(path)]
    assert max(held) < path.stat().st_size / 2


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "k.parquet", COLUMNS["open_time_ms"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportFormatError, match=r"pip install 'klinecast\[parquet\]'"):
        list(read_klines(path))
