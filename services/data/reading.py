"""Reads blocks: from memory, from their sealed columns, or from their rows. Knows no SQL and no wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from klinecast.errors import Aborted
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from services.data.blocks import Block, Snapshot, block_of
from services.data.cache import BlockCache, BlockKey, Columns
from services.runtime.logs import get_logger

if TYPE_CHECKING:
    from klinecast.convert.data import KlineQuery

_LOG = get_logger(__name__)
_MAX_SEALING = 16
_CLOSE_S = 5.0
_WORTH_SEALING = 1024
"""Klines read from rows of a block that still grows before it is sealed anew."""


class BlockStore(Protocol):
    """Where blocks are kept."""

    async def load_klines(
        self, series_id: int, block: int, first_ms: int, last_ms: int, *, columns: Sequence[str]
    ) -> tuple[int, Columns]:
        """Return the block's present rewrite_revision and columns of its klines from first to last, both inclusive."""

    async def load_sealed(self, key: BlockKey, columns: Sequence[str]) -> tuple[int, Columns | None]:
        """Return the block's present rewrite_revision and sealed columns; None unless all of them are there."""

    async def seal_block(self, key: BlockKey, last_ms: int, columns: Columns) -> None:
        """Keep columns of a block's klines up to the last one."""


class CacheObserver(Protocol):
    """Who counts the cache's hits and misses."""

    def observe_cache(self, *, hit: bool) -> None:
        """Count one block."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Columns of a block, as a snapshot saw it."""

    series: SeriesKey
    key: BlockKey
    block: Block
    is_finished: bool
    """Whether the series has gone on to a later block."""

    @property
    def is_regular(self) -> bool:
        """Whether the open times follow from the first one, so that they need not be read."""
        return self.block.gap_count == 0 and self.series.interval is not Interval.MONTH

    @property
    def names(self) -> tuple[str, ...]:
        """Columns to read."""
        return self.key.columns if self.is_regular else ("open_time_ms", *self.key.columns)

    def check(self, rewrite_revision: int, columns: Columns, count: int) -> None:
        """Raise Aborted unless what was read is what the snapshot saw."""
        if rewrite_revision != self.key.rewrite_revision or len(columns[self.names[0]]) != count:
            raise series_changed(self.series)

    def with_times(self, columns: Columns, first_ms: int, count: int) -> Columns:
        """Add open times that were not read."""
        if not self.is_regular:
            return columns
        step_ms = self.series.interval.span_ms
        first_ms = self.block.first_ms - (self.block.first_ms - first_ms) // step_ms * step_ms
        return {"open_time_ms": first_ms + step_ms * np.arange(count, dtype=np.int64), **columns}


class BlockReader:
    """Reads blocks through the cache; one per process."""

    def __init__(self, store: BlockStore, cache: BlockCache, observer: CacheObserver) -> None:
        self._store = store
        self._cache = cache
        self._observer = observer
        self._sealing: set[asyncio.Task[None]] = set()
        self._reading: set[asyncio.Future[Columns]] = set()
        self._is_closing = False

    def start(self, query: KlineQuery, snapshot: Snapshot, block: Block) -> Columns | asyncio.Future[Columns]:
        """Begin to read a block as `read` does; whoever loses interest cancels."""
        found = self.read(query, snapshot, block)
        if isinstance(found, Mapping):
            return found
        future = asyncio.ensure_future(found)
        self._reading.add(future)
        future.add_done_callback(self._forget)
        return future

    def read(self, query: KlineQuery, snapshot: Snapshot, block: Block) -> Columns | Awaitable[Columns]:
        """Return the block's klines in the range from the instant to resume from: now if cached, else in time."""
        first_ms, last_ms = max(query.resume_from_ms, block.first_ms), min(query.end_ms - 1, block.last_ms)
        key = BlockKey(snapshot.series_id, block.number, block.rewrite_revision, block.kline_count, query.columns)
        whole = self._cache.get(key)
        self._observer.observe_cache(hit=whole is not None)
        if whole is not None:
            return cut(whole, first_ms, last_ms)
        wanted = _Wanted(query.key, key, block, block.number < block_of(snapshot.last_ms, query.key.interval))
        count = block.in_range - block.before_resume
        if 2 * count < block.kline_count and not self._cache.is_wanted_again(key):
            return self._load_part(wanted, first_ms, last_ms, count)
        return self._load_whole(wanted, first_ms, last_ms)

    async def close(self) -> None:
        """Wait until nothing is read or sealed any more: a connection that is left in use is lost."""
        self._is_closing = True
        pending: set[asyncio.Future[Any]] = {*self._sealing, *self._reading, *self._cache.pending}
        if pending:
            await asyncio.wait(pending, timeout=_CLOSE_S)

    def _forget(self, future: asyncio.Future[Columns]) -> None:
        """Take the exception of a read nobody waits for any more; a reader that waits gets it all the same."""
        self._reading.discard(future)
        if not future.cancelled():
            future.exception()

    async def _load_whole(self, wanted: _Wanted, first_ms: int, last_ms: int) -> Columns:
        return cut(await self._cache.read(wanted.key, lambda: self._load_block(wanted)), first_ms, last_ms)

    async def _load_block(self, wanted: _Wanted) -> Columns:
        """Read what is sealed, and the rows after it; seal it all when those were many, or are the last."""
        block, sealed = wanted.block, None
        if block.sealed_count:
            sealed = await self._load_sealed(wanted)
        rows = block.kline_count - (block.sealed_count if sealed else 0)
        if sealed and not rows:
            return wanted.with_times(sealed, block.first_ms, block.kline_count)
        first_ms = block.sealed_last_ms + 1 if sealed else block.first_ms
        columns = await self._load_rows(wanted, first_ms, block.last_ms, rows)
        if sealed:
            columns = {name: np.concatenate((sealed[name], columns[name])) for name in wanted.names}
        if wanted.is_finished or rows >= _WORTH_SEALING:
            self._start_sealing(wanted.key, block.last_ms, columns)
        return wanted.with_times(columns, block.first_ms, block.kline_count)

    async def _load_sealed(self, wanted: _Wanted) -> Columns | None:
        count = wanted.block.sealed_count
        key = replace(wanted.key, kline_count=count)
        rewrite_revision, columns = await self._store.load_sealed(key, wanted.names)
        if columns is not None:
            wanted.check(rewrite_revision, columns, count)
        return columns

    async def _load_part(self, wanted: _Wanted, first_ms: int, last_ms: int, count: int) -> Columns:
        return wanted.with_times(await self._load_rows(wanted, first_ms, last_ms, count), first_ms, count)

    async def _load_rows(self, wanted: _Wanted, first_ms: int, last_ms: int, count: int) -> Columns:
        key = wanted.key
        rewrite_revision, columns = await self._store.load_klines(
            key.series_id, key.block, first_ms, last_ms, columns=wanted.names
        )
        wanted.check(rewrite_revision, columns, count)
        return columns

    def _start_sealing(self, key: BlockKey, last_ms: int, columns: Columns) -> None:
        if len(self._sealing) < _MAX_SEALING and not self._is_closing:
            task = asyncio.create_task(self._seal(key, last_ms, columns))
            self._sealing.add(task)
            task.add_done_callback(self._sealing.discard)

    async def _seal(self, key: BlockKey, last_ms: int, columns: Columns) -> None:
        try:
            await self._store.seal_block(key, last_ms, columns)
        except Exception as error:  # the next reader of the rows will try again
            _LOG.warning("block_not_sealed", block=key.block, problem=type(error).__name__)


def series_changed(key: SeriesKey) -> Aborted:
    """Return the error of a series that was rewritten while it was read."""
    return Aborted(f"{key} was rewritten in the range while it was read; start again", reason="SERIES_CHANGED")


def cut(columns: Columns, first_ms: int, last_ms: int) -> Columns:
    """Return the klines from first to last, both inclusive, without copying."""
    times = columns["open_time_ms"]
    start, stop = np.searchsorted(times, first_ms), np.searchsorted(times, last_ms, side="right")
    if stop - start == len(times):
        return columns
    return {name: values[start:stop] for name, values in columns.items()}
