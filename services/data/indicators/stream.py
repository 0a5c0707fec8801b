"""Streams of indicators: klines are read with the history the values need, computed chunk by chunk.

A chunk is computed off the event loop; memory is bounded by the chunk and its history, whatever the range.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from klinecast.convert.indicators import market_key
from klinecast.errors import FailedPrecondition
from klinecast.interval import Interval
from services.data.cache import Columns
from services.data.indicators.catalogue import MOST_OUTPUTS, Computation, prepare
from services.data.indicators.compute import Computer, chunks, has_sums, history_of, join
from services.data.indicators.series import StoredSeries, ValueReader, open_series
from services.data.ranges import OpenRange
from services.data.stream import MAX_MESSAGE_BYTES, rebatch

if TYPE_CHECKING:
    from klinecast.convert.data import KlineQuery
    from klinecast.convert.indicators import IndicatorQuery


class KlineRanges(Protocol):
    """Where ranges of klines are opened."""

    async def open(self, query: KlineQuery) -> OpenRange:
        """Open a range."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What the first message tells."""

    revision: int | None
    last_open_time_ms: int
    source_interval: Interval | None
    indicator_revisions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class IndicatorsMessage:
    """A batch as it is sent."""

    columns: Columns
    """open_time_ms, then a column for each output."""
    rows_sent: int
    rows_total: int
    opened: Opened | None
    """In the first message only."""


class IndicatorStreams:
    """Makes streams of indicators."""

    def __init__(self, ranges: KlineRanges, reader: ValueReader) -> None:
        self._ranges = ranges
        self._reader = reader

    async def stream(self, query: IndicatorQuery) -> AsyncGenerator[IndicatorsMessage, None]:
        """Yield the rows of the range in messages of the size asked for."""
        computations = prepare(query.indicators)
        stored = {one.column: await self._open(query, one.name) for one in query.indicators if one.is_stored}
        if query.raw:
            rows = await _open_values(query, next(iter(stored.values())))
        else:
            rows = await self._open_rows(query, computations, stored)
        sent, first = rows.before_resume, True
        async with (
            aclosing(rows.stretches) as stretches,
            aclosing(rebatch(stretches, _rows_a_message(query))) as batches,
        ):
            async for batch in batches:
                columns = join(batch)
                sent += len(columns["open_time_ms"])
                if sent == rows.total and not first:
                    await rows.require_unchanged()
                yield IndicatorsMessage(columns, sent, rows.total, rows.opened if first else None)
                first = False

    async def _open(self, query: IndicatorQuery, name: str) -> StoredSeries:
        return await open_series(market_key(query.klines.key, name), query.expected_revisions.get(name), self._reader)

    async def _open_rows(
        self, query: IndicatorQuery, computations: Sequence[Computation], stored: Mapping[str, StoredSeries]
    ) -> _Rows:
        wanted = await self._ranges.open(query.klines)
        opened = Opened(wanted.revision, wanted.last_open_time_ms, wanted.source_interval, _revisions(stored.values()))
        if wanted.before_resume == wanted.total:
            return _Rows(opened, wanted.total, wanted.total, _nothing(), wanted.require_unchanged)
        read = await self._open_history(query.klines, computations, wanted)
        stretches = _compute_rows(query, computations, stored, read)
        return _Rows(opened, wanted.before_resume, wanted.total, stretches, read.require_unchanged)

    async def _open_history(
        self, query: KlineQuery, computations: Sequence[Computation], wanted: OpenRange
    ) -> OpenRange:
        """Open the range from as far back as the values need, as the series stood when `wanted` was opened."""
        query = replace(
            query,
            columns=tuple(dict.fromkeys(name for one in computations for name in one.inputs)) or ("close",),
            end_ms=min(query.end_ms, wanted.last_open_time_ms + 1),
            expected_revision=wanted.revision,
            source_interval=wanted.source_interval,
        )
        history, needed = history_of(computations), wanted.total - wanted.before_resume
        reach = history * query.key.interval.span_ms
        while True:
            start_ms = 0 if has_sums(computations) else max(0, query.resume_from_ms - reach)
            opened = await self._ranges.open(replace(query, start_ms=start_ms, resume_from_ms=start_ms))
            if opened.total - needed >= history or start_ms <= opened.first_open_time_ms:
                return opened
            reach *= 4  # gaps before the range: look further back


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a stream about to begin."""

    opened: Opened
    before_resume: int
    total: int
    stretches: AsyncGenerator[Columns, None]
    require_unchanged: Callable[[], Awaitable[None]]


async def _open_values(query: IndicatorQuery, series: StoredSeries) -> _Rows:
    klines = query.klines
    total, before = await series.count(klines.start_ms, klines.end_ms - 1, klines.resume_from_ms)
    if total == 0:
        raise FailedPrecondition(f"{series.key} has no values in the range", reason="NO_KLINES_IN_RANGE")
    opened = Opened(None, series.snapshot.last_ms, None, _revisions([series]))
    stretches = _values(series, query.indicators[0].column, klines.resume_from_ms, klines.end_ms - 1)
    return _Rows(opened, before, total, stretches, series.require_unchanged)


async def _values(series: StoredSeries, label: str, first_ms: int, last_ms: int) -> AsyncGenerator[Columns, None]:
    async with aclosing(series.pages(first_ms, last_ms)) as pages:
        async for page in pages:
            yield {"open_time_ms": page["open_time_ms"], label: page["value"]}


async def _nothing() -> AsyncGenerator[Columns, None]:
    empty: tuple[Columns, ...] = ()
    for columns in empty:
        yield columns


async def _compute_rows(
    query: IndicatorQuery, computations: Sequence[Computation], stored: Mapping[str, StoredSeries], read: OpenRange
) -> AsyncGenerator[Columns, None]:
    """Yield the rows from the instant to resume from, klines before it being history only."""
    computer = Computer(computations)
    async with aclosing(chunks(read.blocks(), history_of(computations))) as pieces:
        async for klines, done in pieces:
            times = klines["open_time_ms"]
            first = max(done, int(np.searchsorted(times, query.klines.resume_from_ms)))
            if first == len(times) and not computer.has_sums:
                continue
            found = await asyncio.to_thread(computer.compute, klines, done)
            if first < len(times):
                values = {name: column[first:] for name, column in found.items()}
                values |= {label: await series.values_at(times[first:]) for label, series in stored.items()}
                ordered = (name for one in query.indicators for name in _names(one.column, values))
                yield {"open_time_ms": times[first:], **{name: values[name] for name in ordered}}


def _names(label: str, found: Columns) -> list[str]:
    return [name for name in found if name == label or name.startswith(f"{label}.")]


def _revisions(series: Iterable[StoredSeries]) -> dict[str, int]:
    return {one.key.name: one.snapshot.revision for one in series}


def _rows_a_message(query: IndicatorQuery) -> int:
    outputs = sum(MOST_OUTPUTS if not one.is_stored else 1 for one in query.indicators)
    return min(query.klines.batch_size, MAX_MESSAGE_BYTES // (8 * (1 + outputs)))
