"""Ranges of a series: a snapshot of its block rows, then block by block, no transaction held. Knows no SQL, no wire.

Three blocks are read ahead while one is sent; a slow reader holds those four and no connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from klinecast.errors import FailedPrecondition
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from services.data.blocks import Block, Snapshot
from services.data.cache import Columns
from services.data.catalog import Gap, SeriesRecord
from services.data.reading import BlockReader, series_changed

if TYPE_CHECKING:
    from klinecast.convert.data import KlineQuery

_AHEAD = 3


class OpenRange(Protocol):
    """A range as the series stood when it was opened."""

    @property
    def total(self) -> int:
        """Klines in the range."""

    @property
    def before_resume(self) -> int:
        """Those before the instant to resume from."""

    @property
    def revision(self) -> int:
        """Revision of the series read."""

    @property
    def rewrite_revision(self) -> int:
        """Revision of the last rewrite of a block that touches the range, 0 for none."""

    @property
    def first_open_time_ms(self) -> int:
        """First open_time of the series."""

    @property
    def last_open_time_ms(self) -> int:
        """Last open_time of the series."""

    @property
    def source_interval(self) -> Interval:
        """Interval of the stored klines that are read."""

    def blocks(self) -> AsyncGenerator[Columns, None]:
        """Yield the klines from the instant to resume from, in stretches; Aborted when the range was rewritten."""

    async def require_unchanged(self) -> None:
        """Raise Aborted when the range was rewritten since it was opened, even if what was read of it was older."""


class RangeStore(Protocol):
    """Where series are kept."""

    async def load_snapshot(self, key: SeriesKey, start_ms: int, end_ms: int, *, resume_ms: int) -> Snapshot | None:
        """Return the series and its blocks of [start, end) as they stand now; None for an unknown series."""

    async def load_last_rewrite(self, series_id: int, first_block: int, last_block: int) -> int:
        """Return the revision of the last rewrite in a run of blocks, 0 for none."""

    async def list_gaps(self, key: SeriesKey, start_ms: int, end_ms: int, *, limit: int) -> list[Gap] | None:
        """Return the first gaps that end at or after start and start before end."""

    async def list_siblings(self, key: SeriesKey) -> list[SeriesRecord]:
        """Return the stored series of the same market with any interval."""


class StoredRange:
    """A range of a stored series."""

    def __init__(self, query: KlineQuery, snapshot: Snapshot, store: RangeStore, reader: BlockReader) -> None:
        self.query = query
        self._store = store
        self.snapshot = snapshot
        self._reader = reader
        self.total = snapshot.total
        self.before_resume = snapshot.before_resume
        self.revision = snapshot.revision
        self.rewrite_revision = snapshot.rewrite_revision
        self.first_open_time_ms = snapshot.first_ms
        self.last_open_time_ms = snapshot.last_ms
        self.source_interval = query.key.interval

    async def blocks(self) -> AsyncGenerator[Columns, None]:
        """Yield block after block, the next ones being read meanwhile."""
        waiting = deque(block for block in self.snapshot.blocks if block.in_range > block.before_resume)
        ahead: deque[Columns | asyncio.Future[Columns]] = deque()
        self._fill(ahead, waiting, 1)  # the first alone: it is what the reader waits for
        try:
            while ahead:
                first = ahead.popleft()
                columns = await first if isinstance(first, asyncio.Future) else first
                self._fill(ahead, waiting, _AHEAD)
                yield columns
        finally:
            for one in ahead:
                if isinstance(one, asyncio.Future):
                    one.cancel()

    async def require_unchanged(self) -> None:
        """Raise Aborted when a block of the range was rewritten since the snapshot."""
        blocks = self.snapshot.blocks
        last = await self._store.load_last_rewrite(self.snapshot.series_id, blocks[0].number, blocks[-1].number)
        if last > self.rewrite_revision:
            raise series_changed(self.query.key)

    def _fill(self, ahead: deque[Columns | asyncio.Future[Columns]], waiting: deque[Block], depth: int) -> None:
        while waiting and len(ahead) < depth:
            ahead.append(self._reader.start(self.query, self.snapshot, waiting.popleft()))


async def open_stored(query: KlineQuery, store: RangeStore, reader: BlockReader) -> StoredRange | None:
    """Open a range of the series itself; None when it is not stored."""
    snapshot = await store.load_snapshot(query.key, query.start_ms, query.end_ms, resume_ms=query.resume_from_ms)
    if snapshot is None:
        return None
    require_unchanged(query, snapshot)
    if snapshot.total == 0:
        raise no_klines(query.key)
    if query.fail_on_gap:
        await require_no_gap(query, snapshot, store)
    return StoredRange(query, snapshot, store, reader)


def require_unchanged(query: KlineQuery, snapshot: Snapshot) -> None:
    """Raise Aborted when the range was rewritten since the revision that the caller expects."""
    expected = query.expected_revision
    if expected is None:
        return
    if snapshot.rewrite_revision > expected or snapshot.revision < expected:
        raise series_changed(query.key)


async def require_no_gap(query: KlineQuery, snapshot: Snapshot, store: RangeStore) -> None:
    """Raise FailedPrecondition naming the first gap of the range."""
    end_ms = min(query.end_ms, snapshot.last_ms)
    if gaps := await store.list_gaps(query.key, query.start_ms, end_ms, limit=1):
        raise _gap_in_range(query.key, gaps[0])


def no_klines(key: SeriesKey) -> FailedPrecondition:
    """Return the error of a range that holds nothing."""
    return FailedPrecondition(f"{key} has no klines in the range", reason="NO_KLINES_IN_RANGE")


def _gap_in_range(key: SeriesKey, gap: Gap) -> FailedPrecondition:
    first = np.datetime64(gap.first_ms, "ms")
    return FailedPrecondition(
        f"{key} lacks {gap.missing_count} kline(s) from {first}Z",
        reason="GAP_IN_RANGE",
        metadata={
            "first_open_time_ms": str(gap.first_ms),
            "last_open_time_ms": str(gap.last_ms),
            "missing_count": str(gap.missing_count),
        },
    )
