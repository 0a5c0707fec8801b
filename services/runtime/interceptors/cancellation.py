"""Innermost: tells the caller's cancellation from others, and ends those that may not go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.runtime.errors import shutting_down
from services.runtime.interceptors.call import Call

HEALTH_SERVICE = "grpc.health.v1.Health"


class RunningCalls:
    """The tasks of the calls in flight."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], Call] = {}
        self._interrupted: dict[asyncio.Task[object], Exception] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Keep the call's task while it runs; a cancellation that is not the caller's becomes an exception."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = call
        self._idle.clear()
        try:
            yield
        except asyncio.CancelledError as error:
            if task in self._interrupted:
                task.uncancel()
                raise self._interrupted[task] from None
            if task.cancelling() == 0:  # nobody cancelled this task: without an exception no status would be sent
                raise RuntimeError("cancelled from within") from error
            raise
        finally:
            del self._tasks[task]
            self._interrupted.pop(task, None)
            if not self._tasks:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """End health watches at once, wait for the rest, then end that too with SHUTTING_DOWN."""
        self._interrupt([task for task, call in self._tasks.items() if call.method.service == HEALTH_SERVICE])
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self._interrupt(list(self._tasks))

    def end(self, task: asyncio.Task[object], error: Exception) -> None:
        """End a call in flight with an exception; a task that serves none is left alone."""
        if task in self._tasks:
            self._interrupted[task] = error
            task.cancel()

    def _interrupt(self, tasks: list[asyncio.Task[object]]) -> None:
        for task in tasks:
            self.end(task, shutting_down())
