"""One ingest of indicator values: checked and written batch by batch. Knows no SQL and no wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from klinecast.errors import FieldViolation, InvalidArgument
from klinecast.indicators import IndicatorKey
from services.data.cache import Columns
from services.data.indicators.series import ValueWriter
from services.data.ingest import MAX_REPORTED
from services.data.validation import MAX_OPEN_TIME_MS, Rejection


@dataclass(slots=True)
class IndicatorIngest:
    """The state of one ingest; its counts are final when the last batch was added."""

    key: IndicatorKey
    """Series that is written."""
    writer: ValueWriter
    """Where to."""
    fail_on_invalid: bool = False
    """Whether a bad value refuses its batch."""
    sent: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    revision: int = 0
    rejections: tuple[Rejection, ...] = ()

    async def add(self, columns: Columns) -> None:
        """Check and write one batch; under fail_on_invalid a bad value raises InvalidArgument, nothing being stored."""
        kept, rejections, repeated = check_values(columns)
        if rejections and self.fail_on_invalid:
            raise _invalid(rejections, self.sent)
        counts = await self.writer.write_values(self.key, {name: values[kept] for name, values in columns.items()})
        self.inserted += counts.inserted
        self.updated += counts.updated
        self.unchanged += len(kept) - counts.inserted - counts.updated + repeated
        self.rejected += len(rejections)
        self.revision = counts.revision
        room = MAX_REPORTED - len(self.rejections)
        self.rejections += tuple(
            Rejection(self.sent + one.index, one.field, one.reason, one.open_time_ms) for one in rejections[:room]
        )
        self.sent += len(columns["open_time_ms"])


def check_values(columns: Columns) -> tuple[NDArray[np.intp], list[Rejection], int]:
    """Return the rows to keep, ascending by open_time, the rejections, and how many repeat an equal one."""
    times, values = columns["open_time_ms"], columns["value"]
    reasons = np.full(len(times), "", dtype="U12")
    reasons[~np.isfinite(values)] = "NOT_FINITE"
    reasons[(times < 0) | (times >= MAX_OPEN_TIME_MS)] = "OUT_OF_RANGE"
    rows = np.flatnonzero(reasons == "")
    rows = rows[np.argsort(times[rows], kind="stable")]
    again = np.concatenate(([False], times[rows[1:]] == times[rows[:-1]])) if len(rows) else np.zeros(0, dtype=bool)
    leaders = rows[np.maximum.accumulate(np.where(again, 0, np.arange(len(rows))))] if len(rows) else rows
    differs = again & (values[rows] != values[leaders])
    reasons[rows[differs]] = "DUPLICATE"
    fields = {"NOT_FINITE": "value"}
    rejections = [
        Rejection(int(row), fields.get(str(reasons[row]), "open_time_ms"), str(reasons[row]), int(times[row]))
        for row in np.flatnonzero(reasons != "")
    ]
    return rows[~again], rejections, int(np.count_nonzero(again & ~differs))


def _invalid(rejections: Sequence[Rejection], sent_before: int) -> InvalidArgument:
    violations = [
        FieldViolation(f"batch.{one.field}[{one.index}]", f"row {sent_before + one.index} of the ingest: {one.reason}")
        for one in rejections[:50]
    ]
    return InvalidArgument.of(*violations, reason="INVALID_INDICATOR_VALUE")
