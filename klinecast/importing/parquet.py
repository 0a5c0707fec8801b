"""Klines in Parquet files, by the names of their columns; needs pyarrow, the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from klinecast.columns import Column
from klinecast.importing.binance import MS, NS, US
from klinecast.importing.errors import ImportFormatError

_NAMES = {
    "open_time_ms": ("open_time_ms", "open_time"),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "close": ("close",),
    "volume": ("volume",),
    "quote_volume": ("quote_volume", "quote_asset_volume"),
    "trade_count": ("trade_count", "number_of_trades", "count"),
    "taker_buy_base_volume": ("taker_buy_base_volume", "taker_buy_base", "taker_buy_base_asset_volume"),
    "taker_buy_quote_volume": ("taker_buy_quote_volume", "taker_buy_quote", "taker_buy_quote_asset_volume"),
}
_REQUIRED = tuple(_NAMES)[:6]


def read_parquet(path: Path, *, batch: int) -> Iterator[tuple[dict[str, Column], float]]:
    """Yield the columns of up to `batch` rows and the share of the file read so far."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportFormatError("reading Parquet needs pyarrow: pip install 'klinecast[parquet]'", path=path) from None
    try:
        with pq.ParquetFile(path) as file:
            names = _find_columns(path, file.schema_arrow.names)
            total, done = max(file.metadata.num_rows, 1), 0
            for rows in file.iter_batches(batch_size=batch, columns=list(names.values())):
                done += rows.num_rows
                yield (
                    {name: _read(rows.column(found), name, found, path) for name, found in names.items()},
                    done / total,
                )
    except (OSError, ValueError) as error:
        if isinstance(error, ImportFormatError):
            raise
        raise ImportFormatError(f"is no readable Parquet file ({error})", path=path) from None


def _find_columns(path: Path, present: list[str]) -> dict[str, str]:
    lower = {name.lower(): name for name in present}
    found = {
        name: lower[spelling]
        for name, spellings in _NAMES.items()
        if (spelling := next((one for one in spellings if one in lower), None)) is not None
    }
    if missing := [name for name in _REQUIRED if name not in found]:
        raise ImportFormatError(f"has no column {', '.join(missing)}; it has {', '.join(present[:20])}", path=path)
    return found


def _read(values: Any, name: str, spelling: str, path: Path) -> Column:
    import pyarrow as pa

    if name == "open_time_ms":
        return _read_times(values, spelling, path)
    if name in _REQUIRED and values.null_count:
        raise ImportFormatError(f"column {spelling} has missing values", path=path)
    try:
        numbers = values.cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise ImportFormatError(f"column {spelling} is not a column of numbers ({error})", path=path) from None
    if name != "trade_count":
        return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
    counts = np.asarray(numbers.fill_null(-1).to_numpy(zero_copy_only=False))
    return np.where(np.isnan(counts), -1, counts).astype(np.int64)


def _read_times(values: Any, spelling: str, path: Path) -> Column:
    import pyarrow as pa

    if values.null_count:
        raise ImportFormatError(f"column {spelling} has missing values", path=path)
    try:
        if pa.types.is_timestamp(values.type):
            return np.asarray(values.cast(pa.timestamp("ms", values.type.tz)).cast(pa.int64()).to_numpy())
        if not pa.types.is_integer(values.type):
            raise ImportFormatError(f"column {spelling} holds {values.type}, not timestamps or integers", path=path)
        times = np.asarray(values.cast(pa.int64()).to_numpy())
    except pa.ArrowInvalid as error:
        raise ImportFormatError(f"column {spelling} is not of whole milliseconds ({error})", path=path) from None
    micro = times >= US
    if len(times) and (times.min() < MS or times.max() >= NS or micro.any() != micro.all()):
        raise ImportFormatError(f"column {spelling} is not all in milliseconds or all in microseconds", path=path)
    if micro.any() and (times % 1000).any():
        raise ImportFormatError(f"column {spelling} holds microseconds that are no whole millisecond", path=path)
    return times // 1000 if micro.any() else times
