"""Backtests outlive their results: tells which results have gone, and marks the backtests that point to them.

A mark is for ever, and one look is not enough for it: an extension judges life when it begins, and may be seen later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from klinecast.errors import KlinecastError
from services.backtest.jobs import Job, JobKey, State

_BATCH = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A backtest and the result it points to."""

    key: JobKey
    result_id: str


class ExpiryStore(Protocol):
    """What marking needs from the database."""

    async def held(self, after: str | None, limit: int) -> Sequence[Held]:
        """Return backtests that point to a result not known to be gone, by id, after one."""

    async def mark_expired(self, keys: Sequence[JobKey]) -> None:
        """Note that the results of backtests are gone; they never come back."""


class ResultExpiry:
    """Asks the results service, which alone knows."""

    def __init__(
        self, store: ExpiryStore, check_results: Callable[[str, Sequence[str]], Awaitable[Sequence[str]]]
    ) -> None:
        self._store = store
        self._check_results = check_results
        """Returns those of a tenant's results that are kept; raises KlinecastError."""
        self._after: str | None = None
        self._missed: set[JobKey] = set()
        self._missed_before: set[JobKey] = set()
        """In the pass before this one, which began a minute ago or more."""

    async def told(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs of one tenant with result_expired filled in; None where the results service is away."""
        asked = [job for job in jobs if job.result_id is not None and not job.result_expired]
        try:
            gone = await self._gone([Held(job.key, job.result_id or "") for job in asked])
        except KlinecastError:
            gone = None
        return [self._with(job, gone) for job in jobs]

    async def look(self) -> bool:
        """Look at the next backtests and mark those whose result was missed twice; return whether the pass is over."""
        held = await self._store.held(self._after, _BATCH)
        for tenant in {one.key.tenant for one in held}:
            gone = await self._gone([one for one in held if one.key.tenant == tenant])
            self._missed |= gone - self._missed_before
            if sure := gone & self._missed_before:
                await self._store.mark_expired(list(sure))
        if len(held) == _BATCH:
            self._after = held[-1].key.backtest_id
            return False
        self._after, self._missed_before, self._missed = None, self._missed, set()
        return True

    async def _gone(self, held: Sequence[Held]) -> frozenset[JobKey]:
        if not held:
            return frozenset()
        ids = sorted({one.result_id for one in held})
        kept = set(await self._check_results(held[0].key.tenant, ids))
        return frozenset(one.key for one in held if one.result_id not in kept)

    @staticmethod
    def _with(job: Job, gone: frozenset[JobKey] | None) -> Job:
        if job.state is not State.SUCCEEDED or job.result_expired:
            return job
        return dataclasses.replace(job, result_expired=None if gone is None else job.key in gone)
