"""Letting go: what has expired, what is beyond a policy's limits, what belongs to no result."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.results.retention import Taken
from services.results.saving import ResultKey
from services.runtime.logs import get_logger

ORPHAN_AGE_S = 3600.0
"""Chunks older than this whose header is missing are no save under way."""
BATCH = 250
"""Results a statement at most: their locks are held for milliseconds."""
BATCH_BYTES = 64 * 1024 * 1024
"""Of those results, unless it is one: a statement of more may not end in its time, and the next would be the same."""
REST = 2.0
"""After a batch the sweeper rests so many times as long as it took: two thirds of the database are the callers'."""
TOUCH_EVERY_S = 60.0
_SELDOM = 60
"""Turns of one step to the next, and failures in a row from one line in the log to the next."""
_BACKLOG_MOST = 10_000
_LOOKED_AT = 1_000
_PAUSE_S = 0.01
_Step = Callable[[], Awaitable[None]]
_LOG = get_logger("sweeping")


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

    async def sweep(self, after: datetime | None) -> tuple[Taken, datetime | None]:
        """Delete a batch of results that expired, from an expiry on; return what went and the last expiry."""

    async def evict(self, tenant: str) -> Taken:
        """Delete a batch of the least recently read results that are beyond the tenant's limits."""

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
        self._scanned: datetime | None = None

    def note_read(self, key: ResultKey) -> None:
        """Remember that a result was read, to be written with the next turn."""
        self._read[key] = None

    def note_grown(self, tenant: str) -> None:
        """Remember that a tenant keeps more, or may keep less: its limits are looked at with the next turn."""
        self._grown.add(tenant)

    async def run(self) -> None:
        """Sweep until cancelled; what fails is tried again in its next turn, and keeps nothing else waiting."""
        often = (self._sweep, self._touch, self._evict, self._measure)
        seldom = (self._look_at_all, self._scrub, self._forget)
        async with asyncio.TaskGroup() as group:
            for step in often:
                group.create_task(self._each_turn(step, self._every_s))
            for step in seldom:
                group.create_task(self._each_turn(step, self._every_s * _SELDOM))

    async def _each_turn(self, step: _Step, every_s: float) -> None:
        failures = 0
        while True:
            try:
                await step()
                failures = 0
            except Exception as error:
                _note(step.__name__, failures, error)
                failures += 1
            await asyncio.sleep(every_s)

    async def _sweep(self) -> None:
        after: datetime | None = None
        while True:
            started = time.monotonic()
            taken, after = await self._store.sweep(after)
            await self._rest(taken, started)
            if not taken.results:
                return

    async def _touch(self) -> None:
        while keys := list(itertools.islice(self._read, _LOOKED_AT)):
            await self._store.touch(keys, TOUCH_EVERY_S)
            for key in keys:  # only now: what fails is written later
                self._read.pop(key, None)

    async def _look_at_all(self) -> None:
        self._grown.update(await self._store.limited_tenants())

    async def _evict(self) -> None:
        """Take a batch from each tenant by turns until all are in bounds; one that fails waits for the next turn."""
        tenants, self._grown = self._grown, set()
        failed: dict[str, Exception] = {}
        while tenants:
            for tenant in tuple(tenants):
                started = time.monotonic()
                try:
                    taken = await self._store.evict(tenant)
                except Exception as error:
                    failed[tenant], taken = error, Taken()
                if not taken.results:
                    tenants.discard(tenant)
                await self._rest(taken, started)
        self._grown.update(failed)
        if failed:
            raise next(iter(failed.values()))

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


def _note(step: str, failures: int, error: Exception) -> None:
    if failures % _SELDOM == 0:  # an outage is one line, not one each second
        _LOG.warning("sweeping_failed", step=step.strip("_"), problem=f"{type(error).__name__}: {error}")
