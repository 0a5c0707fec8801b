"""Ranges of an interval that is not stored, built from a stored one that divides it. Knows no SQL and no wire.

A kline is shown once the source holds it to its end and from its start; gaps of the source inside it are crossed, as
the venue's own larger klines cross them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from klinecast.interval import Interval, ceil_open, divides, floor_open, next_open
from services.data.blocks import Block, Snapshot
from services.data.cache import Columns
from services.data.catalog import SeriesRecord, series_not_found
from services.data.ranges import RangeStore, StoredRange, no_klines, require_no_gap, require_unchanged
from services.data.reading import BlockReader, series_changed
from services.data.resample import Resampler, bucket_of

if TYPE_CHECKING:
    from klinecast.convert.data import KlineQuery


class ResampledRange:
    """A range built from a range of the source."""

    def __init__(
        self, query: KlineQuery, source: StoredRange, whole_ms: tuple[int, int], counts: tuple[int, int]
    ) -> None:
        self._query = query
        self._source = source
        self.first_open_time_ms, self.last_open_time_ms = whole_ms
        self.total, self.before_resume = counts
        self.revision = source.revision
        self.rewrite_revision = source.rewrite_revision
        self.source_interval = source.source_interval

    async def blocks(self) -> AsyncGenerator[Columns, None]:
        """Yield the klines that each block of the source completes."""
        resampler = Resampler(self._query.key.interval, self._query.columns)
        async with aclosing(self._source.blocks()) as blocks:
            async for columns in blocks:
                built = resampler.add(columns)
                if len(built["open_time_ms"]):
                    yield built
        rest = resampler.finish()
        if len(rest["open_time_ms"]):
            yield rest

    async def require_unchanged(self) -> None:
        """Raise Aborted when the source was rewritten in the range since it was opened."""
        await self._source.require_unchanged()


async def open_resampled(query: KlineQuery, store: RangeStore, reader: BlockReader) -> ResampledRange:
    """Open a range built from the source asked for, or from the finest of those that cover most of the range."""
    siblings = [
        one
        for one in await store.list_siblings(query.key)
        if one.first_ms is not None and divides(one.key.interval, query.key.interval)
    ]
    record = _choose(query, siblings)
    wanted = _source_query(query, record)
    if wanted.start_ms >= wanted.end_ms:
        raise no_klines(query.key)
    snapshot = await store.load_snapshot(wanted.key, wanted.start_ms, wanted.end_ms, resume_ms=wanted.resume_from_ms)
    if snapshot is None or _has_shrunk(snapshot, record):
        raise series_changed(query.key)
    require_unchanged(wanted, snapshot)
    if snapshot.total == 0:
        raise no_klines(query.key)
    if query.fail_on_gap:
        await require_no_gap(wanted, snapshot, store)
    source = StoredRange(wanted, snapshot, store, reader)
    return ResampledRange(query, source, _whole(record, query.key.interval), await _count(query, source, reader))


def _choose(query: KlineQuery, siblings: Sequence[SeriesRecord]) -> SeriesRecord:
    wanted = [one for one in siblings if query.source_interval in (None, one.key.interval)]
    if not wanted:
        raise series_not_found(query.key)
    return max(wanted, key=lambda one: (_covered_ms(query, one), -one.key.interval.span_ms))


def _covered_ms(query: KlineQuery, record: SeriesRecord) -> int:
    start_ms, end_ms = _clip(query, record)
    return max(0, end_ms - start_ms)


def _clip(query: KlineQuery, record: SeriesRecord) -> tuple[int, int]:
    """Return the time from the start of the first to the end of the last whole kline of the range."""
    target = query.key.interval
    first_ms, last_ms = _whole(record, target)
    start_ms = max(ceil_open(query.start_ms, target), first_ms)
    return start_ms, next_open(min(floor_open(query.end_ms - 1, target), last_ms), target)


def _whole(record: SeriesRecord, target: Interval) -> tuple[int, int]:
    """Return the open times of the first and the last kline that the source holds from start to end."""
    assert record.first_ms is not None
    assert record.last_ms is not None
    forming = floor_open(next_open(record.last_ms, record.key.interval), target)
    return ceil_open(record.first_ms, target), floor_open(forming - 1, target)


def _has_shrunk(snapshot: Snapshot, record: SeriesRecord) -> bool:
    return snapshot.first_ms != record.first_ms or snapshot.last_ms < (record.last_ms or 0)


def _source_query(query: KlineQuery, record: SeriesRecord) -> KlineQuery:
    start_ms, end_ms = _clip(query, record)
    resume_ms = min(max(start_ms, ceil_open(query.resume_from_ms, query.key.interval)), max(start_ms, end_ms))
    return replace(query, key=record.key, start_ms=start_ms, end_ms=end_ms, resume_from_ms=resume_ms)


async def _count(query: KlineQuery, source: StoredRange, reader: BlockReader) -> tuple[int, int]:
    """Count the klines to build, all and before the instant to resume from; only blocks with gaps are read."""
    total = before = 0
    last = -1
    for block in source.snapshot.blocks:
        if block.in_range:
            opens = await _opens(replace(block, before_resume=0), source, query.key.interval, reader)
            opens = opens[opens > last]
            total += len(opens)
            before += int(np.count_nonzero(opens < source.query.resume_from_ms))
            last = max(last, int(opens[-1])) if len(opens) else last
    return total, before


async def _opens(block: Block, source: StoredRange, target: Interval, reader: BlockReader) -> NDArray[np.int64]:
    """Return the open times of the klines that a block has a part in."""
    query = source.query
    if block.gap_count:
        found = reader.read(replace(query, resume_from_ms=query.start_ms), source.snapshot, block)
        columns = found if isinstance(found, Mapping) else await found
        return np.unique(bucket_of(columns["open_time_ms"], target))
    first_ms = floor_open(max(block.first_ms, query.start_ms), target)
    last_ms = floor_open(min(block.last_ms, query.end_ms - 1), target)
    opens = [first_ms]
    if target is not Interval.MONTH:
        return np.arange(first_ms, last_ms + 1, target.span_ms, dtype=np.int64)
    while opens[-1] < last_ms:
        opens.append(next_open(opens[-1], target))
    return np.asarray(opens, dtype=np.int64)
