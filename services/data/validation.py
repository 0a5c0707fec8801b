"""The checks of klines that come in, vectorised. Knows numpy only.

A kline's first failed check in the order of `_failed_checks` is the one reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column
from klinecast.interval import Interval, is_on_grid

REQUIRED = ("open", "high", "low", "close", "volume")
OPTIONAL = ("quote_volume", "trade_count", "taker_buy_base_volume", "taker_buy_quote_volume")
MAX_OPEN_TIME_MS = 4_102_444_800_000
"""2100-01-01, exclusive."""
MISSING_COUNT = -1

Columns = Mapping[str, Column]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A kline that failed a check."""

    index: int
    """Place in the order sent, from 0."""
    field: str
    """Column that failed."""
    reason: str
    """Machine-readable, for example HIGH_BELOW_CLOSE."""
    open_time_ms: int
    """Its open time."""


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """A batch sorted into what may be stored and what may not."""

    columns: dict[str, Column]
    """The good klines, ascending by open_time, every column present."""
    rejections: tuple[Rejection, ...]
    """The bad ones in the order sent."""
    repeated: int
    """Klines left out because an equal one is in the same batch."""


def check_batch(columns: Columns, interval: Interval) -> CheckedBatch:
    """Check the klines of a batch whose columns are of one length (optional ones may be absent)."""
    full = _with_missing(columns)
    failures = _first_failures(full, interval)
    keep = _ascending(full, np.flatnonzero(failures.codes < 0))
    repeated = _mark_duplicates(full, keep, failures)
    bad = np.flatnonzero(failures.codes >= 0)
    kept = keep[(failures.codes[keep] < 0) & ~repeated]
    times = full["open_time_ms"]
    return CheckedBatch(
        columns={name: values[kept] for name, values in full.items()},
        rejections=tuple(failures.rejection(int(row), int(times[row])) for row in bad),
        repeated=int(np.count_nonzero(repeated)),
    )


@dataclass(slots=True)
class _Failures:
    codes: NDArray[np.int64]
    names: list[tuple[str, str]]

    def mark(self, field: str, reason: str, failed: Mask) -> None:
        self.codes[failed & (self.codes < 0)] = len(self.names)
        self.names.append((field, reason))

    def rejection(self, row: int, open_time_ms: int) -> Rejection:
        field, reason = self.names[self.codes[row]]
        return Rejection(row, field, reason, open_time_ms)


def _with_missing(columns: Columns) -> dict[str, Column]:
    count = len(columns["open_time_ms"])
    full: dict[str, Column] = {name: columns[name] for name in ("open_time_ms", *REQUIRED)}
    for name in OPTIONAL:
        given = columns.get(name)
        if given is not None and len(given) == count:
            full[name] = given
        elif name == "trade_count":
            full[name] = np.full(count, MISSING_COUNT, dtype=np.int64)
        else:
            full[name] = np.full(count, np.nan)
    return full


def _first_failures(columns: Columns, interval: Interval) -> _Failures:
    failures = _Failures(np.full(len(columns["open_time_ms"]), -1, dtype=np.int64), [])
    with np.errstate(invalid="ignore"):
        for field, reason, failed in _failed_checks(columns, interval):
            failures.mark(field, reason, failed)
    return failures


def _failed_checks(columns: Columns, interval: Interval) -> Iterator[tuple[str, str, Mask]]:
    times = np.asarray(columns["open_time_ms"], dtype=np.int64)
    outside = (times < 0) | (times >= MAX_OPEN_TIME_MS)
    yield "open_time_ms", "OUT_OF_RANGE", outside
    yield "open_time_ms", "UNALIGNED", ~is_on_grid(np.where(outside, 0, times), interval)
    for name in ("open", "high", "low", "close"):
        yield name, "NOT_FINITE", ~np.isfinite(columns[name])
        yield name, "NOT_POSITIVE", columns[name] <= 0
    for name in ("open", "close"):
        yield "high", f"HIGH_BELOW_{name.upper()}", columns["high"] < columns[name]
        yield "low", f"LOW_ABOVE_{name.upper()}", columns["low"] > columns[name]
    yield "volume", "NOT_FINITE", ~np.isfinite(columns["volume"])
    yield "volume", "NEGATIVE", columns["volume"] < 0
    for name in ("quote_volume", "taker_buy_base_volume", "taker_buy_quote_volume"):
        yield name, "NOT_FINITE", np.isinf(columns[name])
        yield name, "NEGATIVE", columns[name] < 0
    yield "trade_count", "NEGATIVE", columns["trade_count"] < MISSING_COUNT


def _ascending(columns: Columns, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    times = columns["open_time_ms"][rows]
    if len(times) < 2 or bool(np.all(times[1:] > times[:-1])):
        return rows
    return rows[np.argsort(times, kind="stable")]


def _mark_duplicates(columns: Columns, rows: NDArray[np.intp], failures: _Failures) -> Mask:
    """Mark later rows of an open time as DUPLICATE unless they equal the first; return which are equal repeats."""
    times = columns["open_time_ms"][rows]
    first = np.concatenate(([True], times[1:] != times[:-1])) if len(rows) else np.zeros(0, dtype=bool)
    if first.all():
        return np.zeros(len(rows), dtype=bool)
    leaders = rows[np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]
    equal = np.ones(len(rows), dtype=bool)
    for name in (*REQUIRED, *OPTIONAL):
        values, led = columns[name][rows], columns[name][leaders]
        equal &= (values == led) | (np.isnan(values) & np.isnan(led))
    differs = np.zeros(len(failures.codes), dtype=bool)
    differs[rows[~first & ~equal]] = True
    failures.mark("open_time_ms", "DUPLICATE", differs)
    return ~first & equal
