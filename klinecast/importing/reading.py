"""Files of klines -> batches of columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klinecast.columns import Column
from klinecast.importing import binance
from klinecast.importing.errors import ImportFormatError
from klinecast.importing.files import read_lines
from klinecast.importing.parquet import read_parquet

MAX_BATCH = 32_768
FORMATS = ("auto", "binance", "parquet")


@dataclass(frozen=True, slots=True)
class ImportBatch:
    """Some klines of a file, in its order and unchecked: the data service does the checks."""

    columns: dict[str, Column]
    """open_time_ms and the five required columns; optional ones when the file has them (NaN, -1 = missing)."""
    first_line: int
    """Line of the file that the first of them is on, from 1; in Parquet its row."""
    fraction: float
    """Share of the file read with this batch, up to 1."""

    def __len__(self) -> int:
        return len(self.columns["open_time_ms"])


def read_klines(path: str | Path, *, format: str = "auto") -> Iterator[ImportBatch]:  # noqa: A002
    """Yield the klines of a file in batches of up to 32,768; raise ImportFormatError naming the line or the column.

    Formats: "binance", the order of Binance's dumps, in .csv, .csv.gz and .zip; "parquet", columns by name; "auto" goes
    by the name of the file. close_time is not looked at: at an outage it is truncated.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    path = Path(path)
    if format == "parquet" or (format == "auto" and path.name.lower().endswith(".parquet")):
        return _read_parquet(path)
    return _read(path)


def _read_parquet(path: Path) -> Iterator[ImportBatch]:
    row = 1
    for columns, fraction in read_parquet(path, batch=MAX_BATCH):
        batch = ImportBatch(columns, row, fraction)
        if len(batch):
            yield batch
        row += len(batch)
    if row == 1:
        raise ImportFormatError("holds no klines", path=path)


def _read(path: Path) -> Iterator[ImportBatch]:
    unit: str | None = None
    for first_line, lines, fraction in read_lines(path, batch=MAX_BATCH):
        try:
            skipped = _skip_header(lines) if first_line == 1 else 0
        except binance.RowError as error:
            raise ImportFormatError(str(error), path=path, line=first_line + error.row) from None
        rows = lines[skipped:]
        while rows and not rows[-1].strip():
            rows.pop()
        if not rows:
            continue
        batch, found = _parse(rows, path, first_line + skipped, fraction)
        if unit not in (None, found):
            raise ImportFormatError(binance.MIXED_UNITS, path=path, line=batch.first_line)
        unit = found
        yield batch
    if unit is None:
        raise ImportFormatError("holds no klines", path=path)


def _skip_header(lines: list[bytes]) -> int:
    if not binance.has_header(lines[0]):
        return 0
    binance.check_header(lines[0])
    return 1


def _parse(rows: list[bytes], path: Path, first_line: int, fraction: float) -> tuple[ImportBatch, str]:
    try:
        columns, unit = binance.parse_rows(rows)
    except binance.RowError as error:
        raise ImportFormatError(str(error), path=path, line=first_line + error.row) from None
    return ImportBatch(columns, first_line, fraction), unit
