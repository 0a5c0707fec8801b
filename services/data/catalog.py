"""What is stored: series, their sizes and gaps. Knows no SQL and no wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from klinecast.errors import NotFound
from klinecast.interval import Interval, missing_between, next_open, previous_open
from klinecast.series import SeriesKey


@dataclass(frozen=True, slots=True)
class SeriesRecord:
    """A stored series and what it holds."""

    key: SeriesKey
    """Its identity."""
    first_ms: int | None
    """First open_time; None when it holds no klines."""
    last_ms: int | None
    """Last open_time; None when it holds no klines."""
    kline_count: int
    """Number of klines."""
    revision: int
    """Counter bumped by every change."""
    gap_count: int
    """Gaps between the first and the last kline."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A maximal run of missing klines."""

    first_ms: int
    """open_time of the first missing kline."""
    last_ms: int
    """open_time of the last missing kline."""
    missing_count: int
    """How many are missing."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a delete did."""

    deleted: int
    """Klines that are gone."""
    revision: int
    """Revision of the series afterwards."""


@dataclass(frozen=True, slots=True)
class Flaws:
    """What writing a series left on record."""

    revision: int
    """Revision of the series."""
    rewritten: Sequence[tuple[int, int, int]]
    """Of each block with rewritten klines: first and last open_time, how many."""
    refused: Sequence[tuple[str, str, int, int, int]]
    """Of each failed check: field, reason, how many klines, first and last open_time."""


class Catalog(Protocol):
    """Where series are kept."""

    async def list_series(self, *, venue: str, symbol: str, after: SeriesKey | None, limit: int) -> list[SeriesRecord]:
        """Return series by venue, market type, symbol and interval, those after `after`; empty filters match all."""

    async def get_series(self, key: SeriesKey) -> SeriesRecord | None:
        """Return one series, None when it was never ingested."""

    async def list_gaps(self, key: SeriesKey, start_ms: int, end_ms: int, *, limit: int) -> list[Gap] | None:
        """Return the first gaps that end at or after start and start before end; None for an unknown series."""

    async def delete_klines(self, key: SeriesKey, start_ms: int, end_ms: int) -> Deletion | None:
        """Delete the klines of [start, end); None for an unknown series."""


def series_not_found(key: SeriesKey) -> NotFound:
    """Return the error of a series that was never ingested."""
    return NotFound(f"no series {key}", reason="SERIES_NOT_FOUND", metadata={"series": str(key)})


def gaps_between(neighbours: Sequence[tuple[int, int]], interval: Interval) -> list[Gap]:
    """Turn neighbouring open times with something missing between them into gaps."""
    if not neighbours:
        return []
    pairs = np.asarray(neighbours, dtype=np.int64)
    missing = missing_between(pairs[:, 0], pairs[:, 1], interval)
    return [
        Gap(next_open(before, interval), previous_open(after, interval), int(count))
        for (before, after), count in zip(neighbours, missing, strict=True)
        if count
    ]
