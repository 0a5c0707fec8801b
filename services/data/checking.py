"""What makes a series doubtful, found in one pass over its klines, stretch by stretch. Knows no SQL and no wire."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from klinecast.errors import FailedPrecondition
from klinecast.interval import Interval, missing_between, next_open, previous_open
from klinecast.models import CheckReport, Finding, FindingCount, FindingKind
from klinecast.series import SeriesKey
from services.data.cache import Columns
from services.data.catalog import Flaws, series_not_found
from services.data.ranges import OpenRange

if TYPE_CHECKING:
    from klinecast.convert.checks import CheckQuery
    from klinecast.convert.data import KlineQuery

_REFUSED_KINDS = {"UNALIGNED": FindingKind.OFF_GRID, "DUPLICATE": FindingKind.DUPLICATE}


class SeriesReader(Protocol):
    """Where ranges are opened."""

    async def open(self, query: KlineQuery) -> OpenRange:
        """Open a range."""


class FlawStore(Protocol):
    """Where it is on record what writing a series went through."""

    async def load_flaws(self, key: SeriesKey, start_ms: int, end_ms: int) -> Flaws | None:
        """Return what was rewritten and refused in [start, end); None for an unknown series."""


async def check_series(query: CheckQuery, reader: SeriesReader, store: FlawStore) -> CheckReport:
    """Read a range of a stored series and report everything doubtful in it."""
    klines = query.klines
    flaws = await store.load_flaws(klines.key, klines.start_ms, klines.end_ms)
    if flaws is None:
        raise series_not_found(klines.key)
    checker = SeriesChecker(query)
    count, revision = 0, flaws.revision
    try:
        opened = await reader.open(klines)
    except FailedPrecondition:  # no klines in the range; there may be flaws
        pass
    else:
        count, revision = opened.total, opened.revision
        async with aclosing(opened.blocks()) as blocks:
            async for columns in blocks:
                checker.add(columns)
        await opened.require_unchanged()
    checker.add_flaws(flaws)
    return checker.report(count, revision)


class SeriesChecker:
    """Collects findings; how the klines are cut into stretches makes no difference."""

    def __init__(self, query: CheckQuery) -> None:
        self._query = query
        self._interval: Interval = query.klines.key.interval
        self._found: dict[FindingKind, list[Finding]] = {}
        self._counts: dict[FindingKind, list[int]] = {}
        self._last: tuple[int, float] | None = None
        self._quiet: list[int] = []  # first and last open_time and length of the quiet run that reaches the last kline

    def add(self, columns: Columns) -> None:
        """Look at klines that follow those before."""
        times, closes = columns["open_time_ms"], columns["close"]
        before_ms, before_close = self._last or (int(times[0]), float(closes[0]))
        all_times = np.concatenate(([before_ms], times))
        self._find_gaps(all_times)
        self._find_jumps(times, np.concatenate(([before_close], closes)))
        self._find_quiet(all_times, columns["volume"] == 0)
        self._last = (int(times[-1]), float(closes[-1]))

    def add_flaws(self, flaws: Flaws) -> None:
        """Add what is on record."""
        for first_ms, last_ms, count in flaws.rewritten:
            self._note(Finding(FindingKind.REWRITTEN, first_ms, last_ms, count))
        for field, reason, count, first_ms, last_ms in flaws.refused:
            kind = _REFUSED_KINDS.get(reason, FindingKind.INVALID)
            self._note(Finding(kind, first_ms, last_ms, count, reason=f"{field} {reason}"))

    def report(self, kline_count: int, revision: int) -> CheckReport:
        """Return the findings by kind, oldest first."""
        self._end_quiet()
        kinds = [kind for kind in FindingKind if kind in self._counts]
        return CheckReport(
            kline_count,
            revision,
            tuple(finding for kind in kinds for finding in self._found[kind]),
            {kind: FindingCount(*self._counts[kind]) for kind in kinds},
        )

    def _find_gaps(self, times: NDArray[np.int64]) -> None:
        missing = missing_between(times[:-1], times[1:], self._interval)
        places = np.flatnonzero(missing)
        room = self._room(FindingKind.GAP)
        for place in places[:room]:
            first_ms = next_open(int(times[place]), self._interval)
            last_ms = previous_open(int(times[place + 1]), self._interval)
            self._note(Finding(FindingKind.GAP, first_ms, last_ms, int(missing[place])))
        self._count(FindingKind.GAP, len(places[room:]), int(missing[places[room:]].sum()))

    def _find_jumps(self, times: NDArray[np.int64], closes: NDArray[np.float64]) -> None:
        changes = closes[1:] / closes[:-1] - 1
        places = np.flatnonzero(np.abs(changes) > self._query.jump_bound)
        room = self._room(FindingKind.JUMP)
        for place in places[:room]:
            time_ms = int(times[place])
            self._note(Finding(FindingKind.JUMP, time_ms, time_ms, 1, change=float(changes[place])))
        self._count(FindingKind.JUMP, len(places[room:]), len(places[room:]))

    def _find_quiet(self, times: NDArray[np.int64], quiet: NDArray[np.bool_]) -> None:
        """Extend and end runs of klines without volume; a gap ends a run."""
        after_gap = missing_between(times[:-1], times[1:], self._interval) > 0
        times = times[1:]
        edges = np.flatnonzero(np.concatenate(([True], (quiet[1:] != quiet[:-1]) | after_gap[1:])))
        for start, stop in zip(edges, [*edges[1:], len(quiet)], strict=True):
            if start > 0 or after_gap[0] or not quiet[0]:
                self._end_quiet()
            if quiet[start]:
                first_ms, held = (self._quiet[0], self._quiet[2]) if self._quiet else (int(times[start]), 0)
                self._quiet = [first_ms, int(times[stop - 1]), held + int(stop - start)]

    def _end_quiet(self) -> None:
        if self._quiet and self._quiet[2] >= self._query.zero_volume_klines:
            first_ms, last_ms, count = self._quiet
            self._note(Finding(FindingKind.ZERO_VOLUME, first_ms, last_ms, count))
        self._quiet = []

    def _note(self, finding: Finding) -> None:
        if self._room(finding.kind):
            self._found.setdefault(finding.kind, []).append(finding)
        self._count(finding.kind, 1, finding.kline_count)

    def _room(self, kind: FindingKind) -> int:
        return self._query.max_findings - len(self._found.get(kind, ()))

    def _count(self, kind: FindingKind, findings: int, klines: int) -> None:
        """Count findings; those beyond the number kept are made no objects of."""
        if findings:
            counts = self._counts.setdefault(kind, [0, 0])
            counts[0] += findings
            counts[1] += klines
