"""Moves queued backtests to the executor and rescues those whose worker is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from services.backtest.executors.base import Executor
from services.backtest.jobs import HEARTBEAT_S, LEASE_S, REDELIVER_S, JobStore, Rescued, State
from services.backtest.queueing import QueueStore
from services.backtest.sharing import Limits


class Dispatcher:
    """One per service process; any number of them share the queue."""

    def __init__(
        self,
        store: JobStore,
        queue: QueueStore,
        executor: Executor,
        *,
        limit: int,
        limits_of: Callable[[str], Limits],
        on_rescued: Callable[[Rescued], None],
    ) -> None:
        self._store = store
        self._queue = queue
        self._executor = executor
        self._limit = limit
        self._limits_of = limits_of
        self._on_rescued = on_rescued
        self._work = asyncio.Event()
        self._outage_until = time.monotonic() + LEASE_S

    def wake(self) -> None:
        """Look at the queue soon."""
        self._work.set()

    async def run(self) -> None:
        """Dispatch and rescue until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dispatch_forever())
            group.create_task(self._rescue_forever())

    async def _dispatch_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), REDELIVER_S / 2)
            self._work.clear()
            try:
                await self._dispatch()
            except Exception:  # the database is away: what is queued stays queued
                await asyncio.sleep(HEARTBEAT_S)

    async def _dispatch(self) -> None:
        slots = self._executor.free_slots()
        if slots is None or slots > 0:
            for backtest_id in await self._queue.dispatch(slots, self._limit, self._limits_of):
                self._executor.deliver(backtest_id)

    async def _rescue_forever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                if (
                    time.monotonic() < self._outage_until
                ):  # leases that lapsed while nobody could renew them get one more
                    await self._store.backlog()
                    continue
                rescued = await self._store.rescue()
            except Exception:
                self._outage_until = time.monotonic() + LEASE_S + HEARTBEAT_S
                continue
            for one in rescued:
                self._on_rescued(one)
            if any(one.state is State.QUEUED for one in rescued):
                self.wake()
