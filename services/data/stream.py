"""Streams of klines: a snapshot of block rows, then block by block, no transaction held. Knows no SQL and no wire.

The next block is read while the current one is sent; a slow reader holds two blocks of memory and no connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from klinecast.columns import Column
from klinecast.errors import Aborted, FailedPrecondition
from klinecast.series import SeriesKey
from services.data.blocks import Block, Snapshot
from services.data.cache import BlockCache, BlockKey
from services.data.catalog import Gap, series_not_found

if TYPE_CHECKING:
    from klinecast.convert.data import KlineQuery

MAX_MESSAGE_BYTES = 3_670_016
"""3.5 MiB."""

Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class KlinesMessage:
    """A batch as it is sent."""

    columns: Columns
    """open_time_ms and the columns asked for."""
    klines_sent: int
    """Klines of the range sent so far, those before resume_from_ms included."""
    klines_total: int
    """Klines of the whole range."""
    snapshot: Snapshot | None
    """In the first message only."""


class KlineReader(Protocol):
    """Where klines are read."""

    async def load_snapshot(self, key: SeriesKey, start_ms: int, end_ms: int, *, resume_ms: int) -> Snapshot | None:
        """Return the series and its blocks of [start, end) as they stand now; None for an unknown series."""

    async def load_klines(
        self, series_id: int, block: int, first_ms: int, last_ms: int, *, columns: Sequence[str]
    ) -> tuple[int, Columns]:
        """Return the block's present rewrite_revision and its klines from first to last, both inclusive."""

    async def list_gaps(self, key: SeriesKey, start_ms: int, end_ms: int, *, limit: int) -> list[Gap] | None:
        """Return the first gaps that end at or after start and start before end."""


class CacheObserver(Protocol):
    """Who counts the cache's hits and misses."""

    def observe_cache(self, *, hit: bool) -> None:
        """Count one block."""


class KlineStreams:
    """Makes streams; one per process, since they share the cache."""

    def __init__(self, reader: KlineReader, cache: BlockCache, observer: CacheObserver) -> None:
        self._reader = reader
        self._cache = cache
        self._observer = observer

    async def stream(self, request: KlineQuery) -> AsyncGenerator[KlinesMessage, None]:
        """Yield the klines of the range as the series stood at the first step, in messages of the size asked for."""
        snapshot = await self._open(request)
        sent, total = snapshot.before_resume, snapshot.total
        first: Snapshot | None = snapshot
        async with (
            aclosing(self._read_ahead(request, snapshot)) as blocks,
            aclosing(rebatch(blocks, _message_klines(request))) as batches,
        ):
            async for columns in batches:
                sent += len(columns["open_time_ms"])
                yield KlinesMessage(columns, sent, total, first)
                first = None

    async def _open(self, request: KlineQuery) -> Snapshot:
        snapshot = await self._reader.load_snapshot(
            request.key, request.start_ms, request.end_ms, resume_ms=request.resume_from_ms
        )
        if snapshot is None:
            raise series_not_found(request.key)
        _require_unchanged(request, snapshot)
        if snapshot.total == 0:
            raise FailedPrecondition(f"{request.key} has no klines in the range", reason="NO_KLINES_IN_RANGE")
        if request.fail_on_gap:
            await self._require_no_gap(request, snapshot)
        return snapshot

    async def _require_no_gap(self, request: KlineQuery, snapshot: Snapshot) -> None:
        end_ms = min(request.end_ms, snapshot.last_ms)
        gaps = await self._reader.list_gaps(request.key, request.start_ms, end_ms, limit=1)
        if gaps:
            raise _gap_in_range(request.key, gaps[0])

    async def _read_ahead(self, request: KlineQuery, snapshot: Snapshot) -> AsyncGenerator[Columns, None]:
        waiting = (block for block in snapshot.blocks if block.in_range > block.before_resume)
        ahead = self._start_next(request, snapshot, waiting)
        try:
            while ahead is not None:
                columns = await ahead
                ahead = self._start_next(request, snapshot, waiting)
                yield columns
        finally:
            if ahead is not None:
                ahead.cancel()

    def _start_next(
        self, request: KlineQuery, snapshot: Snapshot, waiting: Iterator[Block]
    ) -> asyncio.Task[Columns] | None:
        block = next(waiting, None)
        if block is None:
            return None
        task = asyncio.create_task(self._read(request, snapshot, block))
        task.add_done_callback(_forget)
        return task

    async def _read(self, request: KlineQuery, snapshot: Snapshot, block: Block) -> Columns:
        first_ms, last_ms = max(request.resume_from_ms, block.first_ms), min(request.end_ms - 1, block.last_ms)
        key = BlockKey(snapshot.series_id, block.number, block.rewrite_revision, block.kline_count, request.columns)
        whole = self._cache.get(key)
        self._observer.observe_cache(hit=whole is not None)
        wanted = block.in_range - block.before_resume
        if whole is None and 2 * wanted < block.kline_count:
            return await self._load(key, first_ms, last_ms, wanted, request.key)
        if whole is None:
            whole = await self._load(key, block.first_ms, block.last_ms, block.kline_count, request.key)
            self._cache.put(key, whole)
        return _cut(whole, first_ms, last_ms)

    async def _load(self, key: BlockKey, first_ms: int, last_ms: int, count: int, series: SeriesKey) -> Columns:
        rewrite_revision, columns = await self._reader.load_klines(
            key.series_id, key.block, first_ms, last_ms, columns=key.columns
        )
        if rewrite_revision != key.rewrite_revision or len(columns["open_time_ms"]) != count:
            raise series_changed(series)
        return columns


async def rebatch(blocks: AsyncIterator[Columns], size: int) -> AsyncGenerator[Columns, None]:
    """Cut and join stretches of columns into batches of exactly `size` klines; the last may be shorter."""
    parts: list[Columns] = []
    held = 0
    async for columns in blocks:
        count, start = len(columns["open_time_ms"]), 0
        while held + count - start >= size:
            stop = start + size - held
            yield _join([*parts, _slice(columns, start, stop)])
            parts, held, start = [], 0, stop
        if start < count:
            parts.append(_slice(columns, start, count))
            held += count - start
    if parts:
        yield _join(parts)


def series_changed(key: SeriesKey) -> Aborted:
    """Return the error of a series that was rewritten while it was read."""
    return Aborted(f"{key} was rewritten in the range while it was read; start again", reason="SERIES_CHANGED")


def _require_unchanged(request: KlineQuery, snapshot: Snapshot) -> None:
    expected = request.expected_revision
    if expected is None:
        return
    rewritten = max((block.rewrite_revision for block in snapshot.blocks), default=0)
    if rewritten > expected or snapshot.revision < expected:
        raise series_changed(request.key)


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


def _message_klines(request: KlineQuery) -> int:
    return min(request.batch_size, MAX_MESSAGE_BYTES // (8 * (1 + len(request.columns))))


def _forget(task: asyncio.Task[Columns]) -> None:
    """Take the exception of a read nobody waits for any more; a reader that waits gets it all the same."""
    if not task.cancelled():
        task.exception()


def _cut(columns: Columns, first_ms: int, last_ms: int) -> Columns:
    times = columns["open_time_ms"]
    start, stop = np.searchsorted(times, first_ms), np.searchsorted(times, last_ms, side="right")
    return columns if stop - start == len(times) else _slice(columns, int(start), int(stop))


def _slice(columns: Columns, start: int, stop: int) -> Columns:
    return {name: values[start:stop] for name, values in columns.items()}


def _join(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
