"""What the service does beside its calls: deletes unwanted results, sweeps old backtests, samples the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from services.backtest.jobs import JobKey, JobStore, State

TURN_S = 1.0
_SWEEP_EVERY = 60
_BATCH = 200


class Upkeep:
    """One per service process; any number of them may run at once."""

    def __init__(
        self,
        store: JobStore,
        *,
        delete_result: Callable[[JobKey, int], bool],
        sample: Callable[[Mapping[State, int]], None],
        keep_s: float,
    ) -> None:
        self._store = store
        self._delete_result = delete_result
        self._sample = sample
        self._keep_s = keep_s

    async def run(self) -> None:
        """Take a turn each second until cancelled; a turn that fails is tried again."""
        turn = 0
        while True:
            try:
                self._sample(await self._store.counts())
                await self._delete_unwanted()
                if turn % _SWEEP_EVERY == 0:
                    await self._sweep()
            except Exception:  # the database is away: the next turn tries again
                pass
            turn += 1
            await asyncio.sleep(TURN_S)

    async def _delete_unwanted(self) -> None:
        for key, fence in await self._store.unwanted(_BATCH):
            if not await asyncio.to_thread(self._delete_result, key, fence):
                return
            await self._store.forget_unwanted(key)

    async def _sweep(self) -> None:
        while await self._store.sweep(self._keep_s, _BATCH) == _BATCH:
            continue
