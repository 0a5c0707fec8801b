"""Files of klines: what is read, what is refused and where."""

import gzip
import zipfile

import numpy as np
import pytest

from klinecast.importing import MAX_BATCH, ImportFormatError, read_klines

START_MS = 1_704_067_200_000
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_asset_volume,number_of_trades,taker_buy_base,"
    "taker_buy_quote,ignore"
)
FUTURES_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def _row(place, *, unit=1, tail="10.5,3,1.5,2.5,0"):
    return f"{(START_MS + place * 60_000) * unit},1.5,2.5,0.5,2.0,{place}.25,{START_MS},{tail}"


def _write(tmp_path, *lines, name="klines.csv", end="\n"):
    path = tmp_path / name
    path.write_bytes((end.join(lines) + end).encode())
    return path


def _read(path):
    batches = list(read_klines(path))
    return {name: np.concatenate([batch.columns[name] for batch in batches]) for name in batches[0].columns}


@pytest.mark.parametrize("header", [(), (HEADER,), (FUTURES_HEADER,), ("\ufeff" + HEADER.upper(),)])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_dump_is_read_with_and_without_header(tmp_path, header, end):
    columns = _read(_write(tmp_path, *header, _row(0), _row(1), end=end))
    assert list(columns["open_time_ms"]) == [START_MS, START_MS + 60_000]
    assert list(columns["volume"]) == [0.25, 1.25]
    assert list(columns["trade_count"]) == [3, 3]
    assert list(columns["taker_buy_quote_volume"]) == [2.5, 2.5]


def test_microseconds_become_milliseconds(tmp_path):
    assert list(_read(_write(tmp_path, _row(0, unit=1000)))["open_time_ms"]) == [START_MS]


def test_packed_files_are_read(tmp_path):
    plain = _write(tmp_path, _row(0), _row(1))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(plain, "a.csv")
    for name in ("a.csv.gz", "a.zip"):
        np.testing.assert_equal(_read(tmp_path / name), _read(plain))


def test_batches_know_their_lines_and_stay_within_the_limit(tmp_path):
    path = _write(tmp_path, HEADER, *(_row(place) for place in range(MAX_BATCH + 5)))
    batches = list(read_klines(path))
    assert [(batch.first_line, len(batch)) for batch in batches] == [(2, MAX_BATCH - 1), (MAX_BATCH + 1, 6)]


def test_empty_optional_columns_are_missing(tmp_path):
    assert "trade_count" not in _read(_write(tmp_path, _row(0, tail=",,,,"), _row(1, tail=",,,,")))
    columns = _read(_write(tmp_path, _row(0, tail=",,,,"), _row(1, tail="7,,0,1,")))
    assert list(columns["taker_buy_base_volume"][1:]) == [0.0]
    assert np.isnan(columns["quote_volume"][0])
    assert "trade_count" not in columns
    mixed = _read(_write(tmp_path, _row(0, tail=",,,,"), _row(1, tail="0,0,0,0,0")))
    assert list(mixed["trade_count"]) == [-1, 0]


@pytest.mark.parametrize(
    ("rows", "line", "problem"),
    [
        ((_row(0), _row(1, unit=1000)), 2, "milliseconds and microseconds are mixed"),
        ((_row(0).replace(str(START_MS), str(START_MS // 1000), 1),), 1, "seconds are not accepted"),
        ((_row(0), _row(1, unit=1_000_000)), 2, "nanoseconds are not accepted"),
        ((_row(0), _row(1).replace("2.5", "x", 1)), 2, "'x' is not a number"),
        ((_row(0), _row(1).replace("2.5", "", 1)), 2, "high is missing|'' is not a number"),
        ((_row(0), _row(1, tail="1,2,3,4")), 2, "has 11 fields"),
        ((_row(0), "", _row(1)), 2, "has 1 fields"),
        ((_row(0, tail="1,2.5,3,4,0"),), 1, "not a number of trades"),
        ((str(START_MS) + ".5" + _row(0)[13:],), 1, "not a whole number"),
        ((_row(0, unit=1000).replace("000,", "001,", 1),), 1, "not a whole millisecond"),
        (("time,o,h,l,c,v", _row(0)), 1, "has the header 'time,o,h,l,c,v', expected 'open_time"),
        ((HEADER.replace("open,high", "high,open"), _row(0)), 1, "has the header"),
        ((_row(0), _row(1).replace("0.5", "\x00", 1)), 2, "is not a number"),
    ],
)
def test_what_is_not_of_the_format_is_refused_by_line(tmp_path, rows, line, problem):
    with pytest.raises(ImportFormatError, match=problem) as caught:
        _read(_write(tmp_path, *rows))
    assert caught.value.line == line


def test_units_must_not_change_between_batches(tmp_path):
    rows = [_row(place) for place in range(MAX_BATCH)]
    with pytest.raises(ImportFormatError, match="mixed") as caught:
        _read(_write(tmp_path, *rows, _row(MAX_BATCH, unit=1000)))
    assert caught.value.line == MAX_BATCH + 1


def test_damaged_and_strange_files_are_refused(tmp_path):
    packed = gzip.compress(b"\n".join(_row(place).encode() for place in range(1_000)))
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "no.csv.gz").write_bytes(b"plain text")
    (tmp_path / "no.zip").write_bytes(b"plain text")
    (tmp_path / "no.parquet").write_bytes(b"")
    (tmp_path / "empty.csv").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    for name in ("cut.csv.gz", "no.csv.gz", "no.zip", "no.parquet", "empty.csv", "two.zip"):
        with pytest.raises(ImportFormatError, match=name):
            list(read_klines(tmp_path / name))


def test_a_line_without_end_is_refused(tmp_path):
    path = _write(tmp_path, _row(0), "1" * 1_000_000)
    with pytest.raises(ImportFormatError, match="line 2: is longer than 4,096 bytes"):
        list(read_klines(path))


def test_lines_are_cut_nowhere_else_than_at_their_ends(tmp_path):
    rows = [_row(place) for place in range(9_000)]
    columns = _read(_write(tmp_path, *rows, end="\r\n"))
    np.testing.assert_array_equal(columns["open_time_ms"], START_MS + 60_000 * np.arange(9_000))
    np.testing.assert_array_equal(columns["volume"], np.arange(9_000) + 0.25)


def test_an_unknown_format_is_refused_at_once():
    with pytest.raises(ValueError, match="auto, binance"):
        read_klines("klines.csv", format="kraken")
