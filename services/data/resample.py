"""Klines of a larger interval out of those of a smaller one, stretch by stretch. Knows numpy only.

Whoever feeds it decides what a whole kline is: every kline of the source that comes in is part of one that goes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column
from klinecast.interval import MONDAY_MS, Interval

Columns = Mapping[str, Column]
_REDUCED = {"high": np.maximum, "low": np.minimum}
_MISSING_COUNT = -1


def bucket_of(open_time_ms: NDArray[np.int64], target: Interval) -> NDArray[np.int64]:
    """Return the open time of the target kline that holds each instant."""
    if target is Interval.MONTH:
        months = open_time_ms.astype("datetime64[ms]").astype("datetime64[M]")
        return months.astype("datetime64[ms]").astype(np.int64)
    offset = MONDAY_MS if target is Interval.W1 else 0
    return (open_time_ms - offset) // target.span_ms * target.span_ms + offset


class Resampler:
    """Gathers source klines; a target kline comes out once a later one has begun, the last one at the end.

    open is that of the first source kline, close that of the last, high and low the extremes. Volumes and counts are
    summed from the first to the last, one addition after another in double arithmetic, so the bits of a sum depend
    on nothing but its terms; a missing term makes the sum missing.
    """

    def __init__(self, target: Interval, columns: Sequence[str]) -> None:
        self._target = target
        self._names = ("open_time_ms", *columns)
        self._held: list[Columns] = []

    def add(self, columns: Columns) -> Columns:
        """Take ascending source klines; return the target klines that they finish."""
        if not len(columns["open_time_ms"]):
            return self._build([])
        buckets = bucket_of(columns["open_time_ms"], self._target)
        last = int(np.searchsorted(buckets, buckets[-1]))
        held = self._held
        if last == 0 and (not held or self._held_bucket() == buckets[0]):
            held.append(columns)
            return self._build([])
        self._held = [{name: values[last:] for name, values in columns.items()}]
        return self._build([*held, {name: values[:last] for name, values in columns.items()}])

    def finish(self) -> Columns:
        """Return the target kline that is still held, or none."""
        held, self._held = self._held, []
        return self._build(held)

    def _held_bucket(self) -> int:
        return int(bucket_of(self._held[0]["open_time_ms"][:1], self._target)[0])

    def _build(self, stretches: Sequence[Columns]) -> Columns:
        if not stretches:
            return {name: np.empty(0, np.int64 if name in _INTEGERS else np.float64) for name in self._names}
        source = {name: np.concatenate([one[name] for one in stretches]) for name in self._names}
        buckets = bucket_of(source["open_time_ms"], self._target)
        starts = np.flatnonzero(np.concatenate(([True], buckets[1:] != buckets[:-1])))
        built = {name: _reduce(name, source[name], starts) for name in self._names[1:]}
        return {"open_time_ms": buckets[starts], **built}


_INTEGERS = ("open_time_ms", "trade_count")


def _reduce(name: str, values: Column, starts: NDArray[np.intp]) -> Column:
    if name == "open":
        return np.asarray(values[starts])
    if name == "close":
        return np.asarray(values[np.concatenate((starts[1:], [len(values)])) - 1])
    if name in _REDUCED:
        return np.asarray(_REDUCED[name].reduceat(values, starts))
    if name == "trade_count":
        missing = np.minimum.reduceat(values, starts) < 0
        return np.asarray(np.where(missing, _MISSING_COUNT, np.add.reduceat(values, starts)))
    numbers = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return np.bincount(numbers, weights=values)  # adds the terms in order; np.add.reduceat adds them in pairs
