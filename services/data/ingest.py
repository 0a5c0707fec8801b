"""One ingest: its batches are checked and written, each in a transaction of its own. Knows no SQL and no wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from klinecast.errors import FieldViolation, InvalidArgument
from klinecast.series import SeriesKey
from services.data.validation import MAX_OPEN_TIME_MS, Columns, Rejection, check_batch

MAX_REPORTED = 100


@dataclass(frozen=True, slots=True)
class WriteCounts:
    """What writing a batch did."""

    inserted: int
    """Klines that were not there."""
    updated: int
    """Klines that had other values."""
    revision: int
    """Revision of the series afterwards."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Klines that failed the same check."""

    field: str
    """Column that failed."""
    reason: str
    """Machine-readable."""
    count: int
    """How many."""
    first_ms: int
    """Lowest open_time of them."""
    last_ms: int
    """Highest open_time of them."""


class KlineWriter(Protocol):
    """Where klines are written."""

    async def write_klines(self, key: SeriesKey, columns: Columns, refusals: Sequence[Refusal]) -> WriteCounts:
        """Upsert checked klines, ascending by open_time, in one transaction; create the series when it is new.

        What was refused is remembered with the series, if there is one.
        """


@dataclass(slots=True)
class Ingest:
    """The state of one ingest; its counts are final when the last batch was added."""

    key: SeriesKey
    """Series that is written."""
    writer: KlineWriter
    """Where to."""
    fail_on_invalid: bool = False
    """Whether a bad kline refuses its batch."""
    sent: int = 0
    """Klines received."""
    inserted: int = 0
    """Klines that were not there."""
    updated: int = 0
    """Klines that had other values."""
    unchanged: int = 0
    """Klines that were there with the same values."""
    rejected: int = 0
    """Klines left out."""
    revision: int = 0
    """Revision of the series after the last batch."""
    rejections: tuple[Rejection, ...] = ()
    """The first 100 of those left out."""

    async def add(self, columns: Columns) -> None:
        """Check and write one batch; under fail_on_invalid a bad kline raises InvalidArgument, nothing being stored."""
        checked = check_batch(columns, self.key.interval)
        if checked.rejections and self.fail_on_invalid:
            raise invalid_klines(checked.rejections, self.sent)
        good = len(checked.columns["open_time_ms"])
        counts = await self.writer.write_klines(self.key, checked.columns, summarise(checked.rejections))
        self.inserted += counts.inserted
        self.updated += counts.updated
        self.unchanged += good - counts.inserted - counts.updated + checked.repeated
        self.rejected += len(checked.rejections)
        self.revision = counts.revision
        self._report(checked.rejections)
        self.sent += len(columns["open_time_ms"])

    def _report(self, rejections: Sequence[Rejection]) -> None:
        room = MAX_REPORTED - len(self.rejections)
        self.rejections += tuple(
            Rejection(self.sent + one.index, one.field, one.reason, one.open_time_ms) for one in rejections[:room]
        )


def summarise(rejections: Sequence[Rejection]) -> list[Refusal]:
    """Gather rejections by what failed; open times outside 1970..2100 are not told, they are no times."""
    found: dict[tuple[str, str], list[int]] = {}
    for one in rejections:
        if 0 <= one.open_time_ms < MAX_OPEN_TIME_MS:
            found.setdefault((one.field, one.reason), []).append(one.open_time_ms)
    return [Refusal(*what, len(times), min(times), max(times)) for what, times in found.items()]


def invalid_klines(rejections: Sequence[Rejection], sent_before: int) -> InvalidArgument:
    """Return the error that names row and field of each bad kline, up to 50 of them."""
    violations = [
        FieldViolation(f"batch.{one.field}[{one.index}]", f"row {sent_before + one.index} of the ingest: {one.reason}")
        for one in rejections[:50]
    ]
    return InvalidArgument.of(*violations, reason="INVALID_KLINE")
