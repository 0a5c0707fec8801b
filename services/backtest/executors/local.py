"""Runs backtests in worker processes of the service's own machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.backtest.executors.base import Finished, Listener
from services.backtest.executors.pool import WorkerPool


class LocalExecutor:
    """A pool of workers beside the service; its news reach the event loop that made it."""

    def __init__(self, url: str, listener: Listener, *, workers: int) -> None:
        self._pool = WorkerPool(url, _Relay(listener), size=workers)

    @property
    def ready(self) -> bool:
        """Whether any worker has been ready."""
        return self._pool.ready

    def pids(self) -> Sequence[int]:
        """Return the processes of its workers."""
        return self._pool.pids()

    def start(self) -> None:
        """Start the workers."""
        self._pool.start()

    def free_slots(self) -> int:
        """Return how many backtests could start now."""
        return self._pool.free_slots()

    def deliver(self, backtest_id: str) -> None:
        """Hand a backtest to an idle worker."""
        self._pool.deliver(backtest_id)

    def stop(self, grace_s: float) -> None:
        """Let workers finish within the grace, hand back what they did not, end them."""
        self._pool.stop(grace_s)


class _Relay:
    """Passes what a thread hears on to the event loop."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()

    def event_stored(self, backtest_id: str) -> None:
        """Pass on."""
        self._loop.call_soon_threadsafe(self._listener.event_stored, backtest_id)

    def finished(self, finished: Finished) -> None:
        """Pass on."""
        self._loop.call_soon_threadsafe(self._listener.finished, finished)

    def slot_freed(self) -> None:
        """Pass on."""
        self._loop.call_soon_threadsafe(self._listener.slot_freed)
