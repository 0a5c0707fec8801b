"""What the service does beside its calls: deletes unwanted results, sweeps old backtests, marks those whose result
has gone, samples the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from services.backtest.jobs import Backlog, JobKey, JobStore, State

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
        sample: Callable[[Backlog], None],
        look_for_expired: Callable[[], Awaitable[bool]],
        keep_s: Mapping[State, float],
    ) -> None:
        self._store = store
        self._delete_result = delete_result
        self._sample = sample
        self._look_for_expired = look_for_expired
        self._keep_s = keep_s
        self._looked_at_all = False

    async def run(self) -> None:
        """Take a turn each second until cancelled; a turn that fails is tried again."""
        turn = 0
        while True:
            try:
                self._sample(await self._store.backlog())
                await self._delete_unwanted()
                if turn % _SWEEP_EVERY == 0:
                    await self._sweep()
                    self._looked_at_all = False
                if not self._looked_at_all:
                    self._looked_at_all = await self._look_for_expired()
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
        for state, keep_s in self._keep_s.items():
            while await self._store.sweep(state, keep_s, _BATCH) == _BATCH:
                continue
