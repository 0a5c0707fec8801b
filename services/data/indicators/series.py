"""Stored indicator series: what is known of them, how their values are written and read. Knows no SQL and no wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column
from klinecast.errors import Aborted, NotFound
from klinecast.indicators import IndicatorKey
from services.data.ingest import WriteCounts

Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class IndicatorRecord:
    """A stored indicator series and what it holds."""

    key: IndicatorKey
    first_ms: int | None
    last_ms: int | None
    value_count: int
    revision: int


@dataclass(frozen=True, slots=True)
class IndicatorSnapshot:
    """A stored indicator series at one instant."""

    series_id: int
    revision: int
    rewrite_revision: int
    """Revision at the last update, or insert before the then last open_time; 0 for none."""
    last_ms: int
    """Nothing after it belongs to the snapshot."""


class ValueWriter(Protocol):
    """Where values are written."""

    async def write_values(self, key: IndicatorKey, columns: Columns) -> WriteCounts:
        """Upsert checked values, ascending by open_time, in one transaction; create the series when it is new."""


class IndicatorCatalog(Protocol):
    """Where indicator series are listed."""

    async def list_indicator_series(
        self, *, venue: str, symbol: str, after: IndicatorKey | None, limit: int
    ) -> list[IndicatorRecord]:
        """Return series by identity, those after `after`; empty filters match all."""


class ValueReader(Protocol):
    """Where values are read."""

    async def load_snapshot(self, key: IndicatorKey) -> IndicatorSnapshot | None:
        """Return a series as it stands now; None for an unknown one."""

    async def count_values(
        self, snapshot: IndicatorSnapshot, first_ms: int, last_ms: int, resume_ms: int
    ) -> tuple[int, int]:
        """Count the values from first to last, both inclusive: all, and those before an instant."""

    async def load_page(self, snapshot: IndicatorSnapshot, first_ms: int, last_ms: int) -> tuple[int, Columns]:
        """Return the present rewrite_revision and the first values from first to last, both inclusive."""

    async def load_last_before(self, snapshot: IndicatorSnapshot, time_ms: int) -> tuple[int, Columns]:
        """Return the present rewrite_revision and the last value before an instant, if there is one."""


class StoredSeries:
    """A stored indicator series as it stood when it was opened; pages of bounded size, no transaction held."""

    def __init__(self, key: IndicatorKey, snapshot: IndicatorSnapshot, reader: ValueReader) -> None:
        self.key = key
        self.snapshot = snapshot
        self._reader = reader

    async def pages(self, first_ms: int, last_ms: int) -> AsyncGenerator[Columns, None]:
        """Yield the values from first to last, both inclusive, ascending."""
        last_ms = min(last_ms, self.snapshot.last_ms)
        while first_ms <= last_ms:
            columns = self._checked(await self._reader.load_page(self.snapshot, first_ms, last_ms))
            if not len(columns["value"]):
                return
            yield columns
            first_ms = int(columns["open_time_ms"][-1]) + 1

    async def count(self, first_ms: int, last_ms: int, resume_ms: int) -> tuple[int, int]:
        """Count the values from first to last, both inclusive: all, and those before an instant."""
        return await self._reader.count_values(self.snapshot, first_ms, min(last_ms, self.snapshot.last_ms), resume_ms)

    async def require_unchanged(self) -> None:
        """Raise Aborted when the series was rewritten since it was opened."""
        self._checked(await self._reader.load_last_before(self.snapshot, 0))

    async def values_at(self, times: NDArray[np.int64]) -> Column:
        """Return the last value at or before each of ascending instants, NaN before the first."""
        before = self._checked(await self._reader.load_last_before(self.snapshot, int(times[0])))
        found = np.full(len(times), before["value"][0] if len(before["value"]) else np.nan)
        async for page in self.pages(int(times[0]), int(times[-1])):
            places = np.searchsorted(page["open_time_ms"], times, side="right") - 1
            found[places >= 0] = page["value"][places[places >= 0]]
        return found

    def _checked(self, read: tuple[int, Columns]) -> Columns:
        rewrite_revision, columns = read
        if rewrite_revision != self.snapshot.rewrite_revision:
            raise indicator_changed(self.key)
        return columns


async def open_series(key: IndicatorKey, expected_revision: int | None, reader: ValueReader) -> StoredSeries:
    """Open a series; NotFound for an unknown one, Aborted when it was rewritten since the expected revision."""
    snapshot = await reader.load_snapshot(key)
    if snapshot is None:
        raise NotFound(f"no indicator series {key}", reason="INDICATOR_NOT_FOUND", metadata={"series": str(key)})
    if expected_revision is not None and not snapshot.rewrite_revision <= expected_revision <= snapshot.revision:
        raise indicator_changed(key)
    return StoredSeries(key, snapshot, reader)


def indicator_changed(key: IndicatorKey) -> Aborted:
    """Return the error of an indicator series that was rewritten while it was read."""
    return Aborted(f"{key} was rewritten while it was read; start again", reason="SERIES_CHANGED")
