"""Takes the result of an equal backtest instead of computing, at once or when that one has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from klinecast.convert.backtest import config_from_proto
from klinecast.convert.outcome import config_from_wire
from klinecast.convert.violations import Violations
from klinecast.errors import KlinecastError
from services.backtest.jobs import JobKey
from services.backtest.queueing import Earlier, Follower, QueueStore
from services.backtest.ranges import AskRange, Ranges
from services.backtest.reuse import Read

POLL_S = 1.0
"""How late a follower may hear that its leader has ended where nothing wakes it."""
_BATCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuser:
    """Finds equal backtests and settles those that wait for one; any number of services may do so at once."""

    queue: QueueStore
    get_range: AskRange
    keep_result: Callable[[JobKey, float | None], Awaitable[None]]
    """Lets a result expire no sooner than so long from now; raises NotFound where it is gone."""
    settled: Callable[[JobKey], None]
    """Hears of a follower that took a result."""
    _came: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _ended: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def find(self, ranges: Ranges, key: bytes, ttl_s: float | None, looked_at: list[str]) -> str | None:
        """Return the result of an equal backtest, kept for as long as is asked; note what was looked at."""
        for earlier in await self.queue.find_equal(ranges.tenant, key, looked_at):
            looked_at.append(earlier.key.backtest_id)
            if await self._take(ranges, earlier, ttl_s):
                return earlier.result_id
        return None

    def expect(self) -> None:
        """Take care of a follower that was just stored."""
        self._came.set()

    def wake(self) -> None:
        """Look at the followers soon, if there are any: a backtest has ended."""
        self._ended.set()

    async def run(self) -> None:
        """Settle followers whose leader has ended, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._came.wait(), 2 * POLL_S)  # those of other services are looked for then
            self._came.clear()
            try:
                while await self.queue.are_followers():
                    for follower in await self.queue.followers(_BATCH):
                        await self._settle(follower)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._ended.wait(), POLL_S)
                    self._ended.clear()
            except Exception:  # the database is away: the next turn tries again
                await asyncio.sleep(POLL_S)

    async def _settle(self, follower: Follower) -> None:
        key, leader = follower.job.key, follower.leader
        config = config_from_proto(config_from_wire(follower.job.config), Violations())
        ranges = Ranges(self.get_range, key.tenant)
        if leader is not None and config is not None and await self._take(ranges, leader, config.result_ttl_s):
            if await self.queue.finish_reused(key, leader.result_id):
                self.settled(key)
        else:
            await self.queue.lead(key, follower.leader_id)

    async def _take(self, ranges: Ranges, earlier: Earlier, ttl_s: float | None) -> bool:
        """Tell whether a result still is what would be computed, and is there; if so it is kept."""
        try:
            for read in map(Read.from_json, earlier.reads):
                if not read.is_unchanged(await ranges.get(read.series, read.start_ms, read.end_ms, read.names)):
                    await self.queue.forget_equal(earlier.key)
                    return False
            await self.keep_result(JobKey(earlier.key.tenant, earlier.result_id), ttl_s)
        except KlinecastError:  # klines or result are gone, or a service is away: then it is computed
            return False
        return True
