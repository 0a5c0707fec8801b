"""Klines as tables of the libraries people have: the same values, times in UTC."""

import sys

import numpy as np
import pytest

from klinecast.client import Interval, KlineBatch, LoadedKlines
from klinecast.types import KlineColumns
from tests.factories import START_MS, make_columns

COLUMNS = make_columns(50)
TABLES = [LoadedKlines(KlineColumns(**COLUMNS), 1, Interval.H1), KlineBatch(COLUMNS, 0, 50, 50, 1)]


@pytest.mark.parametrize("klines", TABLES)
def test_pandas(klines) -> None:
    frame = klines.to_pandas()
    assert str(frame.index.tz) == "UTC"
    assert frame.index.name == "open_time"
    assert frame.index[0].timestamp() * 1000 == START_MS
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(frame[name].to_numpy(), COLUMNS[name])


@pytest.mark.parametrize("klines", TABLES)
def test_polars(klines) -> None:
    frame = klines.to_polars()
    assert frame.columns == ["open_time", "open", "high", "low", "close", "volume"]
    assert frame["open_time"][0].timestamp() * 1000 == START_MS
    assert str(frame["open_time"].dtype) == "Datetime(time_unit='ms', time_zone='UTC')"
    np.testing.assert_array_equal(frame["close"].to_numpy(), COLUMNS["close"])


@pytest.mark.parametrize("klines", TABLES)
def test_arrow(klines) -> None:
    table = klines.to_arrow()
    assert str(table.schema.field("open_time").type) == "timestamp[ms, tz=UTC]"
    assert table["open_time"][0].as_py().timestamp() * 1000 == START_MS
    np.testing.assert_array_equal(table["volume"].to_numpy(), COLUMNS["volume"])


def test_optional_columns_come_along() -> None:
    batch = KlineBatch(COLUMNS | {"trade_count": np.arange(50)}, 0, 50, 50, 1)
    assert batch.to_pandas()["trade_count"].tolist() == list(range(50))
    assert batch.to_polars()["trade_count"].to_list() == list(range(50))
    assert batch.to_arrow()["trade_count"].to_pylist() == list(range(50))


def test_values_are_not_copied() -> None:
    close, table = COLUMNS["close"], TABLES[0]
    assert np.shares_memory(table.to_pandas()["close"].to_numpy(), close)
    assert np.shares_memory(table.to_polars()["close"].to_numpy(), close)
    assert np.shares_memory(table.to_arrow()["close"].chunk(0).to_numpy(), close)


def test_a_batch_without_klines_is_an_empty_table() -> None:
    empty = KlineBatch({name: values[:0] for name, values in COLUMNS.items()}, 0, 0, 0, 1)
    assert len(empty.to_pandas()) == len(empty.to_polars()) == len(empty.to_arrow()) == 0


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_what_is_missing_is_named(library, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    name = "to_arrow" if library == "pyarrow" else f"to_{library}"
    with pytest.raises(ImportError, match=f"pip install {library}"):
        getattr(TABLES[0], name)()
