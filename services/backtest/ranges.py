"""What ranges of klines hold, as far as one request has to know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from klinecast.models import RangeSummary
from klinecast.series import SeriesKey

AT_ONCE = 4
"""Ranges that one request asks about at once: a hundred series must not take all threads."""
Range: TypeAlias = "tuple[SeriesKey, int, int, tuple[str, ...]]"
"""[start, end) of a series in milliseconds, and the names of stored indicator series."""
AskRange: TypeAlias = "Callable[[str, Range], Awaitable[RangeSummary]]"
"""Asks the data service for a tenant what a range holds now; raises what reading it would."""


class Ranges:
    """Asks in the name of a tenant, about each range once."""

    def __init__(self, ask: AskRange, tenant: str) -> None:
        self.tenant = tenant
        self._ask = ask
        self._known: dict[Range, RangeSummary] = {}

    async def get(
        self, series: SeriesKey, start_ms: int, end_ms: int, indicators: tuple[str, ...] = ()
    ) -> RangeSummary:
        """Return what a range holds."""
        wanted = (series, start_ms, end_ms, indicators)
        if wanted not in self._known:
            self._known[wanted] = await self._ask(self.tenant, wanted)
        return self._known[wanted]

    async def count_klines(self, series: Sequence[SeriesKey], start_ms: int, end_ms: int) -> int:
        """Return how many klines [start, end) of several series holds; FailedPrecondition where one holds none."""
        count = 0
        for at in range(0, len(series), AT_ONCE):
            some = (self.get(one, start_ms, end_ms) for one in series[at : at + AT_ONCE])
            count += sum(one.kline_count for one in await asyncio.gather(*some))
        return count
