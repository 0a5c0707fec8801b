"""Letting go: what has expired, what is beyond a policy's limits, what belongs to no result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.results.retention import Taken
from services.results.saving import ResultKey

ORPHAN_AGE_S = 3600.0
"""Chunks older than this whose header is missing are no save under way."""
BATCH = 250
"""Results a statement: their locks are held for milliseconds."""
REST = 2.0
"""After a batch the sweeper rests so many times as long as it took: two thirds of the database are the callers'."""
TOUCH_EVERY_S = 60.0
_SELDOM = 60
_BACKLOG_MOST = 10_000
_LOOKED_AT = 1_000
_PAUSE_S = 0.01
_Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What has expired and is still there."""

    results: int
    """Counted up to 10,000."""
    oldest_s: float


@dataclass(frozen=True, slots=True)
class OrphanScan:
    """What a look at old chunks found."""

    looked_at: int
    last: datetime | None
    orphans: Sequence[str]
    """Saves without a header."""


class SweepStore(Protocol):
    """What the sweeper needs from the database; every call is one bounded transaction."""

    async def sweep(self, after: datetime | None, limit: int) -> tuple[Taken, datetime | None]:
        """Delete up to `limit` results that expired, from an expiry on; return what went and the last expiry."""

    async def evict(self, tenant: str, limit: int) -> Taken:
        """Delete up to `limit` of the least recently read results that are beyond the tenant's limits."""

    async def limited_tenants(self) -> Sequence[str]:
        """Return the tenants whose results are limited."""

    async def backlog(self, most: int) -> Backlog:
        """Return what has expired and is still there."""

    async def find_orphans(self, after: datetime | None, age_s: float, limit: int) -> OrphanScan:
        """Look at chunks old enough, oldest first."""

    async def delete_orphans(self, save_ids: Sequence[str]) -> int:
        """Delete the chunks of saves that have no header; return how many."""

    async def forget(self, limit: int) -> int:
        """Delete old tombstones and up to `limit` old audit records; return how many records."""

    async def touch(self, keys: Sequence[ResultKey], at_most_every_s: float) -> None:
        """Note that results were read."""


@dataclass(frozen=True, slots=True)
class SweepObserver:
    """Who hears of it."""

    taken: Callable[[Taken], None]
    backlog: Callable[[Backlog], None]
    orphans: Callable[[int], None]


class Sweeper:
    """Takes a turn each second or so, in batches with rests between them; one per process, any number at once."""

    def __init__(self, store: SweepStore, *, every_s: float, observer: SweepObserver) -> None:
        self._store = store
        self._every_s = every_s
        self._observer = observer
        self._read: dict[ResultKey, None] = {}
        self._grown: set[str] = set()
        self._look_at_all = True
        self._scanned: datetime | None = None

    def note_read(self, key: ResultKey) -> None:
        """Remember that a result was read, to be written with the next turn."""
        self._read[key] = None

    def note_grown(self, tenant: str) -> None:
        """Remember that a tenant keeps more, or may keep less: its limits are looked at with the next turn."""
        self._grown.add(tenant)

    async def run(self) -> None:
        """Sweep until cancelled; what fails is tried again in the next turn."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._each_turn([self._sweep]))
            group.create_task(self._each_turn([self._touch, self._evict, self._measure], [self._scrub, self._forget]))

    async def _each_turn(self, steps: Sequence[_Step], seldom: Sequence[_Step] = ()) -> None:
        turn = 0
        while True:
            if turn % _SELDOM == 0 and seldom:
                self._look_at_all = True
            try:
                for step in (*steps, *(seldom if turn % _SELDOM == 0 else ())):
                    await step()
            except Exception:  # the database is away: the next turn tries again
                pass
            turn += 1
            await asyncio.sleep(self._every_s)

    async def _sweep(self) -> None:
        after: datetime | None = None
        while True:
            started = time.monotonic()
            taken, after = await self._store.sweep(after, BATCH)
            await self._rest(taken, started)
            if taken.results < BATCH:
                return

    async def _touch(self) -> None:
        keys, self._read = list(self._read), {}
        if keys:
            await self._store.touch(keys, TOUCH_EVERY_S)

    async def _evict(self) -> None:
        if self._look_at_all:
            self._grown.update(await self._store.limited_tenants())
            self._look_at_all = False
        while self._grown:
            tenant = self._grown.pop()
            try:
                await self._evict_from(tenant)
            except Exception:
                self._grown.add(tenant)
                raise

    async def _evict_from(self, tenant: str) -> None:
        while True:
            started = time.monotonic()
            taken = await self._store.evict(tenant, BATCH)
            await self._rest(taken, started)
            if not taken.results:
                return

    async def _rest(self, taken: Taken, started: float) -> None:
        self._observer.taken(taken)
        if taken.results:
            await asyncio.sleep(REST * (time.monotonic() - started))

    async def _measure(self) -> None:
        self._observer.backlog(await self._store.backlog(_BACKLOG_MOST))

    async def _scrub(self) -> None:
        while True:
            found = await self._store.find_orphans(self._scanned, ORPHAN_AGE_S, _LOOKED_AT)
            if found.orphans:
                self._observer.orphans(await self._store.delete_orphans(found.orphans))
            stuck, self._scanned = found.last in (None, self._scanned), found.last or self._scanned
            if stuck or found.looked_at < _LOOKED_AT:
                return
            await asyncio.sleep(_PAUSE_S)

    async def _forget(self) -> None:
        while True:
            if await self._store.forget(_LOOKED_AT) < _LOOKED_AT:
                return
            await asyncio.sleep(_PAUSE_S)
