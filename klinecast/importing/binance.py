"""The column order of Binance's public dumps: header or none, spot or futures names, milliseconds or microseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column

FIELDS = 12
_NAMES: tuple[frozenset[str], ...] = (
    frozenset({"open_time"}),
    frozenset({"open"}),
    frozenset({"high"}),
    frozenset({"low"}),
    frozenset({"close"}),
    frozenset({"volume"}),
    frozenset({"close_time"}),
    frozenset({"quote_asset_volume", "quote_volume"}),
    frozenset({"number_of_trades", "count"}),
    frozenset({"taker_buy_base", "taker_buy_volume", "taker_buy_base_asset_volume"}),
    frozenset({"taker_buy_quote", "taker_buy_quote_volume", "taker_buy_quote_asset_volume"}),
    frozenset({"ignore"}),
)
EXPECTED_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_asset_volume,number_of_trades,taker_buy_base,"
    "taker_buy_quote,ignore"
)
_PRICES = ("open", "high", "low", "close", "volume")
_OPTIONAL = ("quote_volume", "trade_count", "taker_buy_base_volume", "taker_buy_quote_volume")
_PLACES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10)
_NONE_OPTIONAL = b",,,,,"
_MS, _US, _NS = 1e11, 1e14, 1e17
"""Where milliseconds, microseconds and nanoseconds begin (1973-03-03 each)."""
_EXACT = 2.0**53
MIXED_UNITS = "is in another unit than the rows before: milliseconds and microseconds are mixed"


class RowError(ValueError):
    """A row of a batch is not of the format; `row` counts from 0."""

    def __init__(self, problem: str, row: int) -> None:
        super().__init__(problem)
        self.row = row


def has_header(line: bytes) -> bool:
    """Tell whether a first line names its columns."""
    first = line.split(b",", 1)[0].strip()
    return not _is_number(first)


def check_header(line: bytes) -> None:
    """Raise RowError unless the header is a known one, in Binance's order."""
    text = line.decode("utf-8", "replace")
    names = [name.strip().lower() for name in text.split(",")]
    if len(names) != FIELDS or not all(name in known for name, known in zip(names, _NAMES, strict=True)):
        raise RowError(f"has the header {text[:300]!r}, expected {EXPECTED_HEADER!r}", 0)


def parse_rows(lines: Sequence[bytes]) -> tuple[dict[str, Column], str]:
    """Return the columns of rows and the unit of their times, "ms" or "us"; open_time_ms is in milliseconds.

    Optional columns are left out when no row has them; a missing value is NaN (trade_count: -1).
    """
    _check_field_counts(lines)
    has_optional = not all(line.endswith(_NONE_OPTIONAL) for line in lines)
    numbers = _parse(_filled(lines) if has_optional else lines, _PLACES if has_optional else _PLACES[:6])
    _require_numbers(numbers)
    open_time_ms, unit = to_milliseconds(numbers[:, 0])
    columns: dict[str, Column] = {"open_time_ms": open_time_ms}
    columns |= {name: np.ascontiguousarray(numbers[:, place]) for place, name in enumerate(_PRICES, start=1)}
    return columns | (_optional_columns(numbers[:, 6:]) if has_optional else {}), unit


def _check_field_counts(lines: Sequence[bytes]) -> None:
    if {line.count(b",") for line in lines} == {FIELDS - 1}:
        return
    for row, line in enumerate(lines):
        if line.count(b",") != FIELDS - 1:
            raise RowError(f"has {line.count(b',') + 1} fields, expected the {FIELDS} of {EXPECTED_HEADER!r}", row)


def _require_numbers(numbers: NDArray[np.float64]) -> None:
    missing = np.isnan(numbers[:, :6])
    if missing.any():
        row, place = np.argwhere(missing)[0]
        raise RowError(f"{('open_time', *_PRICES)[place]} is missing", int(row))


def _optional_columns(numbers: NDArray[np.float64]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for place, name in enumerate(_OPTIONAL):
        values = np.ascontiguousarray(numbers[:, place])
        if not np.isnan(values).all():
            columns[name] = to_counts(values) if name == "trade_count" else values
    return columns


def _filled(lines: Sequence[bytes]) -> Sequence[bytes]:
    if not any(b",," in line for line in lines):
        return lines
    return [line.replace(b",,", b",nan,").replace(b",,", b",nan,") for line in lines]


def _parse(lines: Sequence[bytes], places: Sequence[int]) -> NDArray[np.float64]:
    try:
        return np.loadtxt(lines, delimiter=",", usecols=places, comments=None, ndmin=2, encoding="ascii")
    except ValueError:  # UnicodeDecodeError is one
        raise _first_bad_row(lines, places) from None


def _first_bad_row(lines: Sequence[bytes], places: Sequence[int]) -> RowError:
    for row, line in enumerate(lines):
        values = line.split(b",")
        for place in places:
            if not _is_number(values[place]):
                shown = values[place][:40].decode("utf-8", "replace")
                return RowError(f"{shown!r} is not a number", row)
    return RowError("is not a table of numbers", 0)


def to_milliseconds(times: NDArray[np.float64]) -> tuple[NDArray[np.int64], str]:
    """Return times in milliseconds and the unit they were in, "ms" or "us"; raise RowError for any other."""
    _refuse(~(times >= _MS), times, "is not a time in milliseconds or microseconds (seconds are not accepted)")
    _refuse(times >= _NS, times, "is not a time in milliseconds or microseconds (nanoseconds are not accepted)")
    micro = times >= _US
    unit = "us" if micro[:1].any() else "ms"
    _refuse(micro != micro[:1], times, MIXED_UNITS)
    whole = times.astype(np.int64)
    _refuse(whole != times, times, "is not a whole number")
    if unit == "ms":
        return whole, unit
    _refuse(whole % 1000 != 0, times, "is in microseconds and not a whole millisecond")
    return whole // 1000, unit


def to_counts(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return numbers of trades, -1 for NaN; raise RowError for what is not a whole number."""
    missing = np.isnan(values)
    known = np.where(missing, -1.0, values)
    _refuse(~(np.abs(known) < _EXACT) | (known != np.floor(known)), values, "is not a number of trades")
    return known.astype(np.int64)


def _refuse(bad: NDArray[np.bool_], values: NDArray[np.float64], problem: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise RowError(f"{values[row]:.16g} {problem}", row)


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text
