"""Klines in Parquet files, by the names of their columns; needs pyarrow, the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column
from klinecast.importing.binance import MIXED_UNITS, RowError, to_counts, to_milliseconds
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
    "taker_buy_base_volume": (
        "taker_buy_base_volume",
        "taker_buy_base",
        "taker_buy_volume",
        "taker_buy_base_asset_volume",
    ),
    "taker_buy_quote_volume": ("taker_buy_quote_volume", "taker_buy_quote", "taker_buy_quote_asset_volume"),
}
_REQUIRED = tuple(_NAMES)[:6]
_BUFFER_BYTES = 1 << 16


def read_parquet(path: Path, *, batch: int) -> Iterator[tuple[dict[str, Column], float]]:
    """Yield the columns of up to `batch` rows and the share of the file read so far, however large its row groups."""
    arrow, parquet = _load_pyarrow(path)
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            reader = _Reader(arrow, path, file.schema_arrow.names)
            total = max(file.metadata.num_rows, 1)
            for rows in file.iter_batches(batch_size=batch, columns=list(reader.names.values())):
                yield reader.read(rows), reader.rows / total
    except (OSError, arrow.ArrowException) as error:
        raise ImportFormatError(f"is no readable Parquet file ({error})", path=path) from None


def _load_pyarrow(path: Path) -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportFormatError("reading Parquet needs pyarrow: pip install 'klinecast[parquet]'", path=path) from None
    return pa, pq


class _Reader:
    """Turns record batches of one file into columns."""

    def __init__(self, arrow: ModuleType, path: Path, present: list[str]) -> None:
        self._arrow = arrow
        self._path = path
        self._unit: str | None = None
        self.names = _find_columns(path, present)
        """Column in the file by our name."""
        self.rows = 0
        """Rows read so far."""

    def read(self, rows: Any) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for name, spelling in self.names.items():
            try:
                columns[name] = self._read_column(name, rows.column(spelling))
            except RowError as error:
                problem = f"column {spelling}, row {self.rows + error.row + 1:,}: {error}"
                raise ImportFormatError(problem, path=self._path) from None
            except self._arrow.ArrowException as error:
                problem = f"column {spelling}, rows from {self.rows + 1:,}: {error}"
                raise ImportFormatError(problem, path=self._path) from None
        self.rows += rows.num_rows
        return columns

    def _read_column(self, name: str, values: Any) -> Column:
        if name in _REQUIRED and values.null_count:
            raise RowError("is missing", int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))))
        if name == "open_time_ms":
            return self._read_times(values)
        numbers = self._to_numbers(values)
        return to_counts(numbers) if name == "trade_count" else numbers

    def _read_times(self, values: Any) -> Column:
        arrow = self._arrow
        if arrow.types.is_timestamp(values.type):
            milliseconds = values.cast(arrow.timestamp("ms", values.type.tz)).cast(arrow.int64())
            return np.asarray(milliseconds.to_numpy(), dtype=np.int64)
        if not arrow.types.is_integer(values.type):
            raise RowError(f"holds {values.type}, not timestamps or integers", 0)
        times, unit = to_milliseconds(values.to_numpy().astype(np.float64))
        if self._unit not in (None, unit):
            raise RowError(MIXED_UNITS, 0)
        self._unit = unit
        return times

    def _to_numbers(self, values: Any) -> NDArray[np.float64]:
        numbers = values.cast(self._arrow.float64())
        return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)


def _find_columns(path: Path, present: list[str]) -> dict[str, str]:
    by_spelling: dict[str, list[str]] = {}
    for name in present:
        by_spelling.setdefault(name.lower(), []).append(name)
    known = ((name, next((by_spelling[one] for one in _NAMES[name] if one in by_spelling), [])) for name in _NAMES)
    found = {name: columns for name, columns in known if columns}
    if missing := [name for name in _REQUIRED if name not in found]:
        raise ImportFormatError(f"has no column {', '.join(missing)}; it has {', '.join(present[:20])}", path=path)
    for columns in found.values():
        if len(columns) > 1:
            raise ImportFormatError(f"has more than one column {', '.join(columns)}", path=path)
    return {name: columns[0] for name, columns in found.items()}
