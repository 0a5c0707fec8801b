"""Runs backtests in worker processes of this machine.

Workers are started from scratch (never forked), die with this process (their end of a socket pair closes), and are
killed where they do not listen. This process renews their leases: never behind the computation. One warm spare hides
the start of a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from services.backtest.executors.base import Finished, Listener
from services.backtest.jobs import CANCEL_GRACE_S, HEARTBEAT_S, Delivery, Failure, JobKey, JobStore, State
from services.backtest.worker.protocol import (
    Cancel,
    Claimed,
    Done,
    Dropped,
    FromWorker,
    Ready,
    Run,
    Stop,
    Stored,
    ToWorker,
)
from services.runtime.logs import get_logger

_RESPAWN_S = 0.5
_FLUSH_S = 2.5
"""What an idle worker may take to send its last spans."""


@dataclass(eq=False, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    ready: bool = False
    job: JobKey | None = None
    fence: int = 0
    deadline: float = float("inf")
    cancelling: bool = False
    verdict: Failure | None = None
    """Set when this process kills the worker for a reason that ends the backtest."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class LocalExecutor:
    """A pool of worker processes."""

    def __init__(self, store: JobStore, listener: Listener, *, workers: int) -> None:
        self._store = store
        self._listener = listener
        self._size = workers
        self._workers: set[_Worker] = set()
        self._heartbeat_now = asyncio.Event()
        self._first_ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._log = get_logger("executor")

    async def start(self) -> None:
        """Start the workers and one spare; return when the first is ready."""
        for _ in range(self._size + 1):
            self._spawn()
        self._keep(self._heartbeat_forever())
        await self._first_ready.wait()

    @property
    def ready(self) -> bool:
        """Whether any worker has been ready."""
        return self._first_ready.is_set()

    def free_slots(self) -> int:
        """Return how many backtests could start now."""
        if self._stopping:
            return 0
        busy = sum(worker.job is not None for worker in self._workers)
        idle = sum(worker.ready and worker.job is None for worker in self._workers)
        return min(self._size - busy, idle)

    def deliver(self, delivery: Delivery) -> None:
        """Hand a backtest to an idle worker; without one it is delivered again later."""
        for worker in self._workers:
            if worker.ready and worker.job is None:
                worker.job = delivery.key
                self._send(worker, Run(delivery.key.tenant, delivery.key.backtest_id))
                return

    def cancel_soon(self) -> None:
        """Look for asked-for cancels now."""
        self._heartbeat_now.set()

    async def stop(self, grace_s: float) -> None:
        """Let workers finish within the grace, hand back what they did not, end them."""
        self._stopping = True
        idle = [worker for worker in self._workers if worker.job is None]
        busy = [worker for worker in self._workers if worker.job is not None]
        for worker in idle:
            self._send(worker, Stop())
        await asyncio.gather(_wait_ended(idle, _FLUSH_S), _wait_ended(busy, grace_s))
        held = [(worker.job, worker.fence) for worker in self._workers if worker.job is not None and worker.fence]
        for worker in list(self._workers):
            worker.process.kill()
        for key, fence in held:
            if key is not None:
                await self._store.hand_back(key, fence)
        await asyncio.gather(*(asyncio.to_thread(worker.process.wait) for worker in list(self._workers)))
        for task in list(self._tasks):
            task.cancel()
        for worker in list(self._workers):
            self._forget(worker)

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.backtest.worker", "--child-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        worker = _Worker(process, Connection(ours.detach()))
        self._workers.add(worker)
        asyncio.get_running_loop().add_reader(worker.pipe.fileno(), self._receive, worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            message: FromWorker = worker.pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(worker.pipe.fileno())
            self._keep(self._bury(worker))
            return
        match message:
            case Ready():
                worker.ready = True
                self._first_ready.set()
                self._listener.slot_freed()
            case Claimed(fence=fence, left_s=left_s) if worker.job is not None:
                worker.fence, worker.deadline = fence, time.monotonic() + left_s
                self._listener.event_stored(worker.job)
            case Stored() if worker.job is not None:
                self._listener.event_stored(worker.job)
            case Done(state=state, timings_s=timings_s) if worker.job is not None:
                self._listener.event_stored(worker.job)
                self._listener.finished(Finished(worker.job, State(state), timings_s))
                self._free(worker)
            case Dropped():
                self._free(worker)

    def _free(self, worker: _Worker) -> None:
        worker.job, worker.fence, worker.deadline, worker.cancelling = None, 0, float("inf"), False
        if self._stopping:
            self._send(worker, Stop())
        self._listener.slot_freed()

    async def _bury(self, worker: _Worker) -> None:
        """Take back the backtest of a worker that died and replace the worker."""
        code = await asyncio.to_thread(worker.process.wait)
        key, fence = worker.job, worker.fence
        self._forget(worker)
        if key is not None and fence and not self._stopping:
            self._log.warning("worker_died", exit_code=code, backtest_id=key.backtest_id, cancelled=worker.cancelling)
            await self._settle(worker, key, fence)
        if not self._stopping:
            if not worker.ready:
                await asyncio.sleep(_RESPAWN_S)
            self._spawn()

    async def _settle(self, worker: _Worker, key: JobKey, fence: int) -> None:
        """Write what became of a backtest whose worker died; the lease's end does so when the database is away."""
        try:
            if worker.cancelling and worker.verdict is None and await self._store.finish_cancelled(key, fence):
                self._listener.finished(Finished(key, State.CANCELLED, {}))
            else:
                rescued = await self._store.release(key, fence, worker.verdict)
                if rescued is not None and rescued.state.terminal:
                    self._listener.finished(Finished(key, rescued.state, {}))
        except Exception:
            self._log.warning("release_failed", backtest_id=key.backtest_id)
        self._listener.event_stored(key)
        self._listener.slot_freed()

    async def _heartbeat_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heartbeat_now.wait(), HEARTBEAT_S)
            self._heartbeat_now.clear()
            self._enforce_deadlines()
            held = {worker.job: worker.fence for worker in self._workers if worker.job is not None and worker.fence}
            if held:
                try:
                    cancelled = await self._store.renew(held)
                except Exception:
                    self._log.warning("heartbeat_failed", held=len(held))
                    continue
                for worker in list(self._workers):
                    if worker.job in cancelled and not worker.cancelling:
                        self._keep(self._cancel(worker))

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.job is not None and now > worker.deadline and worker.verdict is None:
                worker.verdict = Failure("BACKTEST_DEADLINE", "the backtest ran longer than its deadline")
                worker.process.kill()

    async def _cancel(self, worker: _Worker) -> None:
        """Ask a worker to give up, which it does between slices; kill it when it does not within the grace."""
        worker.cancelling = True
        job = worker.job
        if job is not None:
            self._send(worker, Cancel(job.backtest_id))
        await asyncio.sleep(CANCEL_GRACE_S)
        if worker.job == job and worker in self._workers:
            worker.process.kill()

    def _send(self, worker: _Worker, message: ToWorker) -> None:
        with contextlib.suppress(OSError):  # it died; _receive will notice
            worker.pipe.send(message)

    def _forget(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.discard(worker)
            worker.ended.set()
            asyncio.get_running_loop().remove_reader(worker.pipe.fileno())
            worker.pipe.close()

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _wait_ended(workers: Sequence[_Worker], timeout_s: float) -> None:
    waits = [asyncio.create_task(worker.ended.wait()) for worker in workers]
    if waits:
        _, late = await asyncio.wait(waits, timeout=timeout_s)
        for wait in late:
            wait.cancel()
