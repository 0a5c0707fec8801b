"""Streams of klines: an opened range, cut into messages of the size asked for. Knows no SQL and no wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klinecast.interval import Interval
from services.data.cache import Columns
from services.data.catalog import series_not_found
from services.data.ranges import OpenRange, RangeStore, open_stored
from services.data.reading import BlockReader
from services.data.resampled import open_resampled

if TYPE_CHECKING:
    from klinecast.convert.data import KlineQuery

MAX_MESSAGE_BYTES = 3_670_016
"""3.5 MiB."""


@dataclass(frozen=True, slots=True)
class KlinesMessage:
    """A batch as it is sent."""

    stretches: Sequence[Columns]
    """open_time_ms and the columns asked for, in pieces that follow each other."""
    klines_sent: int
    """Klines of the range sent so far, those before resume_from_ms included."""
    klines_total: int
    """Klines of the whole range."""
    opened: OpenRange | None
    """In the first message only."""

    @property
    def count(self) -> int:
        """Klines in this message."""
        return sum(len(stretch["open_time_ms"]) for stretch in self.stretches)

    @property
    def first_open_time_ms(self) -> int:
        """First open_time in this message."""
        return int(self.stretches[0]["open_time_ms"][0])

    @property
    def last_open_time_ms(self) -> int:
        """Last open_time in this message."""
        return int(self.stretches[-1]["open_time_ms"][-1])

    def has_implied_times(self, interval: Interval) -> bool:
        """Tell whether every open time follows from the first one: no gap between the klines."""
        span_ms = (self.count - 1) * interval.span_ms
        return interval is not Interval.MONTH and self.last_open_time_ms - self.first_open_time_ms == span_ms


class KlineStreams:
    """Opens ranges and makes streams of them."""

    def __init__(self, store: RangeStore, reader: BlockReader) -> None:
        self._store = store
        self._reader = reader

    async def open(self, query: KlineQuery) -> OpenRange:
        """Open a range of the series, or of one built from another of its market."""
        if query.source_interval in (None, query.key.interval):
            stored = await open_stored(query, self._store, self._reader)
            if stored is not None:
                return stored
            if query.source_interval is not None:
                raise series_not_found(query.key)
        return await open_resampled(query, self._store, self._reader)

    async def stream(self, query: KlineQuery) -> AsyncGenerator[KlinesMessage, None]:
        """Yield the klines of the range as the series stood at the first step, in messages of the size asked for."""
        opened = await self.open(query)
        sent = opened.before_resume
        first: OpenRange | None = opened
        async with (
            aclosing(opened.blocks()) as blocks,
            aclosing(rebatch(blocks, _message_klines(query))) as batches,
        ):
            async for stretches in batches:
                sent += sum(len(stretch["open_time_ms"]) for stretch in stretches)
                if sent == opened.total and first is None:  # a first message is as old as the snapshot
                    await opened.require_unchanged()
                yield KlinesMessage(stretches, sent, opened.total, first)
                first = None


async def rebatch(blocks: AsyncIterator[Columns], size: int) -> AsyncGenerator[Sequence[Columns], None]:
    """Cut and gather stretches of columns into batches of exactly `size` klines; the last may be shorter."""
    parts: list[Columns] = []
    held = 0
    async for columns in blocks:
        count, start = len(columns["open_time_ms"]), 0
        while held + count - start >= size:
            stop = start + size - held
            yield [*parts, _slice(columns, start, stop)]
            parts, held, start = [], 0, stop
        if start < count:
            parts.append(_slice(columns, start, count))
            held += count - start
    if parts:
        yield parts


def _message_klines(query: KlineQuery) -> int:
    return min(query.batch_size, MAX_MESSAGE_BYTES // (8 * (1 + len(query.columns))))


def _slice(columns: Columns, start: int, stop: int) -> Columns:
    if start == 0 and stop == len(columns["open_time_ms"]):
        return columns
    return {name: values[start:stop] for name, values in columns.items()}
