"""Columns of klines as a table of pandas, polars or Arrow, where those are installed; open_time is in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from klinecast.columns import Column

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_TIME = "open_time_ms"


def to_pandas(columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return a DataFrame indexed by open_time."""
    pandas = _library("pandas")
    index = pandas.DatetimeIndex(columns[_TIME].view("datetime64[ms]"), tz="UTC", name="open_time")
    frame: pd.DataFrame = pandas.DataFrame(_values(columns), index=index, copy=False)
    return frame


def to_polars(columns: Mapping[str, Column]) -> pl.DataFrame:
    """Return a DataFrame whose first column is open_time."""
    polars = _library("polars")
    time = polars.Series("open_time", columns[_TIME]).cast(polars.Datetime("ms", "UTC"))
    frame: pl.DataFrame = polars.DataFrame([time, *(polars.Series(*one) for one in _values(columns).items())])
    return frame


def to_arrow(columns: Mapping[str, Column]) -> pa.Table:
    """Return a Table whose first column is open_time."""
    arrow = _library("pyarrow")
    time = arrow.array(columns[_TIME]).view(arrow.timestamp("ms", "UTC"))
    values = {name: arrow.array(column) for name, column in _values(columns).items()}
    table: pa.Table = arrow.table({"open_time": time, **values})
    return table


def _values(columns: Mapping[str, Column]) -> dict[str, Column]:
    return {name: values for name, values in columns.items() if name != _TIME}


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"this needs {name}: pip install {name}", name=name) from None
