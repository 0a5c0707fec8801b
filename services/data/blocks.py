"""Blocks: fixed stretches of time that a series is cut into, and what is known about each without reading its klines.

A block spans 8,192 intervals (5.7 days of 1m, 341 days of 1h), counted from 1970: full, it holds 8,192 klines, some
400 KB of OHLCV columns, which Postgres reads in about 5 ms. Smaller blocks would cost a round trip more often, larger
ones would make a short range or one appended kline read too much.
"""

from __future__ import annotations

from dataclasses import dataclass

from klinecast.interval import Interval

KLINES_PER_BLOCK = 8192
_LONGEST_MONTH_MS = 31 * 86_400_000


def block_span_ms(interval: Interval) -> int:
    """Return how many milliseconds a block of the interval spans."""
    return KLINES_PER_BLOCK * interval.span_ms


def block_of(open_time_ms: int, interval: Interval) -> int:
    """Return the number of the block an instant falls into."""
    return open_time_ms // block_span_ms(interval)


def max_step_ms(interval: Interval) -> int:
    """Return the largest distance of neighbours without a gap; one missing month makes at least 59 days."""
    return _LONGEST_MONTH_MS if interval is Interval.MONTH else interval.span_ms


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a series as a snapshot saw it; a block whose klines were all deleted stays, with a count of 0."""

    number: int
    """Time since 1970 divided by the block span."""
    kline_count: int
    """Klines it holds."""
    first_ms: int
    """First open_time (0 when empty)."""
    last_ms: int
    """Last open_time (0 when empty)."""
    gap_count: int
    """Gaps between its first and its last kline."""
    rewrite_revision: int
    """Revision of the series at the last update, delete or insert before the then last open_time; 0 for none."""
    sealed_count: int
    """How many of its first klines are also kept as columns."""
    sealed_last_ms: int
    """open_time of the last of those (0 for none)."""
    in_range: int
    """Klines of it in the range asked for."""
    before_resume: int
    """Those of them that are before the instant to resume from."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A series at one instant, without its klines."""

    series_id: int
    """Id of the series."""
    revision: int
    """Its revision."""
    first_ms: int
    """Its first open_time (0 when empty)."""
    last_ms: int
    """Its last open_time (0 when empty); nothing after it belongs to the snapshot."""
    blocks: tuple[Block, ...]
    """The blocks that touch the range, in order."""

    @property
    def total(self) -> int:
        """Klines in the range."""
        return sum(block.in_range for block in self.blocks)

    @property
    def rewrite_revision(self) -> int:
        """Revision of the last rewrite of any of the blocks, 0 for none."""
        return max((block.rewrite_revision for block in self.blocks), default=0)

    @property
    def before_resume(self) -> int:
        """Klines in the range before the instant to resume from."""
        return sum(block.before_resume for block in self.blocks)
