"""Intervals of klines and the grid of open times they make, all in epoch milliseconds UTC."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

_DAY = 86_400_000
MONDAY_MS = 4 * _DAY
"""1970-01-05, the first Monday of the epoch."""


class Interval(StrEnum):
    """Fixed span of a kline."""

    M1 = "1m"
    M3 = "3m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H2 = "2h"
    H4 = "4h"
    H6 = "6h"
    H8 = "8h"
    H12 = "12h"
    D1 = "1d"
    D3 = "3d"
    W1 = "1w"
    MONTH = "1M"

    @property
    def span_ms(self) -> int:
        """Length in milliseconds; the mean Gregorian month for 1M."""
        return _SPANS[self]


_UNITS = {"m": 60_000, "h": 3_600_000, "d": _DAY, "w": 7 * _DAY, "M": 2_629_746_000}
_SPANS = {interval: int(interval.value[:-1]) * _UNITS[interval.value[-1]] for interval in Interval}


def divides(source: Interval, target: Interval) -> bool:
    """Tell whether klines of a smaller interval make up those of a larger one; weeks and months are made of days."""
    if source.span_ms >= target.span_ms or source in (Interval.W1, Interval.MONTH):
        return False
    return (_DAY if target in (Interval.W1, Interval.MONTH) else target.span_ms) % source.span_ms == 0


def floor_open(open_time_ms: int, interval: Interval) -> int:
    """Return the open time of the kline that holds an instant."""
    if interval is Interval.MONTH:
        start = dt.datetime.fromtimestamp(open_time_ms / 1000, dt.UTC)
        return int(dt.datetime(start.year, start.month, 1, tzinfo=dt.UTC).timestamp() * 1000)
    offset = MONDAY_MS if interval is Interval.W1 else 0
    return (open_time_ms - offset) // interval.span_ms * interval.span_ms + offset


def ceil_open(time_ms: int, interval: Interval) -> int:
    """Return the first open time at or after an instant."""
    floor = floor_open(time_ms, interval)
    return floor if floor == time_ms else next_open(floor, interval)


def is_on_grid(open_time_ms: NDArray[np.int64], interval: Interval) -> NDArray[np.bool_]:
    """Tell which open times start a kline of the interval (1w on Mondays, 1M on the first, all at 00:00 UTC)."""
    if interval is Interval.MONTH:
        stamps = open_time_ms.astype("datetime64[ms]")
        return np.asarray(stamps == stamps.astype("datetime64[M]").astype("datetime64[ms]"))
    offset = MONDAY_MS if interval is Interval.W1 else 0
    return np.asarray((open_time_ms - offset) % interval.span_ms == 0)


def missing_between(before_ms: NDArray[np.int64], after_ms: NDArray[np.int64], interval: Interval) -> NDArray[np.int64]:
    """Count the klines missing between neighbours on the grid (0 where they touch)."""
    if interval is Interval.MONTH:
        months = [
            stamps.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) for stamps in (before_ms, after_ms)
        ]
        return np.asarray(np.maximum(months[1] - months[0] - 1, 0), dtype=np.int64)
    return np.asarray(np.maximum((after_ms - before_ms - 1) // interval.span_ms, 0), dtype=np.int64)


def next_open(open_time_ms: int, interval: Interval) -> int:
    """Return the open time that follows one on the grid; also the exclusive end of its kline."""
    if interval is not Interval.MONTH:
        return open_time_ms + interval.span_ms
    start = dt.datetime.fromtimestamp(open_time_ms / 1000, dt.UTC)
    year, month = (start.year + 1, 1) if start.month == 12 else (start.year, start.month + 1)
    return int(dt.datetime(year, month, 1, tzinfo=dt.UTC).timestamp() * 1000)


def previous_open(open_time_ms: int, interval: Interval) -> int:
    """Return the open time before one on the grid."""
    if interval is not Interval.MONTH:
        return open_time_ms - interval.span_ms
    start = dt.datetime.fromtimestamp(open_time_ms / 1000, dt.UTC)
    year, month = (start.year - 1, 12) if start.month == 1 else (start.year, start.month - 1)
    return int(dt.datetime(year, month, 1, tzinfo=dt.UTC).timestamp() * 1000)
