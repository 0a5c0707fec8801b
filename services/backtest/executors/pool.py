"""Worker processes of this machine and the two threads that look after them.

Workers are started from scratch (never forked), die with this process (their end of a socket pair closes), and are
killed where they do not listen. One thread hears them, starts them and kills them; the other, the keeper, renews their
leases and writes what became of the backtests of the dead: never behind a computation, nor behind each other. One warm
spare hides the start of a worker.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait

import psycopg

from services.backtest.executors.base import Finished, Listener
from services.backtest.executors.child import Child
from services.backtest.executors.keeper import Held, Keeper
from services.backtest.jobs import CANCEL_GRACE_S, HEARTBEAT_S, Failure, State
from services.backtest.worker.protocol import Cancel, Claimed, Done, Dropped, FromWorker, Ready, Run, Stop, Stored
from services.runtime.logs import get_logger

_RESPAWN_S = 0.5
"""Between the death of a worker that never was ready and the start of the next."""
_FLUSH_S = 2.5
"""What an idle worker may take to send its last spans."""
_DEADLINE = Failure("BACKTEST_DEADLINE", "the backtest ran longer than its deadline")


@dataclass(eq=False, slots=True)
class _Worker:
    worker_id: str
    child: Child
    ready: bool = False
    delivered: str | None = None
    """The backtest it was handed."""
    held: Held | None = None
    """The same, once it was claimed."""
    kill_at: float = float("inf")
    cancelling: bool = False
    stopped: bool = False
    """Whether it is killed because the pool ends: its backtest is handed back."""
    verdict: Failure | None = None
    """Set when it is killed for a reason that ends the backtest."""

    @property
    def idle(self) -> bool:
        return self.ready and self.delivered is None


class WorkerPool:
    """A number of workers and one spare."""

    def __init__(self, url: str, listener: Listener, *, size: int, announces: bool = False) -> None:
        """Describe it; `announces`: it takes backtests from a broker, so it says how many it has room for."""
        self._keeper = Keeper(url)
        self._listener = listener
        self._size = size
        self._pool_id = str(uuid.uuid4()) if announces else None
        self._workers: set[_Worker] = set()
        self._spawn_at: list[float] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._settling: deque[Callable[[], None]] = deque()
        self._hear_now, self._keep_now = Bell(), Bell()
        self._first_ready = threading.Event()
        self._stopping = self._stopped = False
        self._threads = [
            threading.Thread(target=self._or_end, args=(self._hear_forever,), name="workers", daemon=True),
            threading.Thread(target=self._or_end, args=(self._keep_forever,), name="keeper", daemon=True),
        ]
        self._log = get_logger("pool")

    def start(self) -> None:
        """Start the workers and one spare; none where there is to be none."""
        self._spawn_at = [0.0] * (self._size + 1 if self._size else 0)
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """Whether any worker has been ready."""
        return self._first_ready.is_set()

    def free_slots(self) -> int:
        """Return how many backtests could start now."""
        with self._lock:
            if self._stopping:
                return 0
            busy = sum(worker.delivered is not None for worker in self._workers)
            return min(self._size - busy, sum(worker.idle for worker in self._workers))

    def deliver(self, backtest_id: str) -> None:
        """Hand a backtest to an idle worker; where there is none it is delivered again later."""
        with self._lock:
            worker = next((one for one in self._workers if one.idle), None)
            if worker is not None and not self._stopping:
                worker.delivered = backtest_id
                self._send(worker, Run(backtest_id))

    def stop(self, grace_s: float) -> None:
        """Let workers finish within the grace, hand back what they did not, end them. Again: sooner."""
        with self._changed:
            self._stopping = True
            idle = [worker for worker in self._workers if worker.delivered is None]
            for worker in idle:
                self._send(worker, Stop())
                if not worker.ready:  # it would hear of it only once it has started
                    worker.child.kill()
        self._keep_now.ring()
        self._wait_gone(grace_s, lambda worker: worker.delivered is not None)
        self._wait_gone(_FLUSH_S, lambda worker: worker.delivered is None)
        with self._lock:
            for worker in self._workers:
                worker.stopped = True
                worker.child.kill()
            self._stopped = True
        self._hear_now.ring()
        self._keep_now.ring()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _wait_gone(self, timeout_s: float, which: Callable[[_Worker], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not any(map(which, self._workers)), timeout_s)

    def pids(self) -> Sequence[int]:
        """Return the processes of the workers."""
        with self._lock:
            return [worker.child.pid for worker in self._workers]

    def _or_end(self, look_after: Callable[[], None]) -> None:
        """Be a thread without which backtests would be taken and never end: should it fail, so does the process."""
        try:
            look_after()
        except BaseException:
            self._log.exception("pool_failed")
            sys.stdout.flush()
            os._exit(1)  # the workers end with their pipes, another process rescues what they held

    # The thread that hears the workers.

    def _hear_forever(self) -> None:
        while not (self._stopped and not self._workers):
            self._spawn_due()
            self._kill_due()
            with self._lock:
                signs = {sign: worker for worker in self._workers for sign in worker.child.signs}
            heard = wait([*signs, self._hear_now.fd], self._next_due_s())
            if self._hear_now.fd in heard:
                self._hear_now.quiet()
            for worker in {signs[one] for one in heard if one in signs}:
                self._listen(worker)
            self._bury_ended()

    def _listen(self, worker: _Worker) -> None:
        """Hear what a worker has said by now; at the end of its pipe it is dead or as good as dead."""
        while True:
            try:
                if not worker.child.pipe.poll():
                    return
                message: FromWorker = worker.child.pipe.recv()
            except Exception:  # the end of the pipe, or what only a strategy can have written
                self._bury(worker)
                return
            self._receive(worker, message)

    def _bury_ended(self) -> None:
        """Bury those whose pipe does not say so: a process that a strategy started still holds it."""
        with self._lock:
            ended = [worker for worker in self._workers if worker.child.has_ended()]
        for worker in ended:
            self._listen(worker)  # its last words
            if worker in self._workers:
                self._bury(worker)

    def _spawn_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [at for at in self._spawn_at if at <= now]
            self._spawn_at = [at for at in self._spawn_at if at > now]
            for _ in () if self._stopping else due:
                self._spawn()

    def _spawn(self) -> None:
        worker_id = str(uuid.uuid4())
        try:
            self._workers.add(_Worker(worker_id, Child(worker_id)))
        except OSError as error:  # no descriptor, process or memory left: perhaps later
            self._log.warning("worker_not_started", problem=error.strerror)
            self._spawn_at.append(time.monotonic() + _RESPAWN_S)

    def _next_due_s(self) -> float:
        with self._lock:
            due = [*self._spawn_at, *(worker.kill_at for worker in self._workers)]
        return max(0.0, min(min(due, default=float("inf")) - time.monotonic(), HEARTBEAT_S))

    def _kill_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            for worker in self._workers:
                if worker.kill_at <= now:
                    worker.kill_at = float("inf")
                    worker.verdict = None if worker.cancelling else _DEADLINE
                    worker.child.kill()

    def _receive(self, worker: _Worker, message: FromWorker) -> None:
        match message:
            case Ready():
                with self._lock:
                    worker.ready = True
                self._first_ready.set()
                self._listener.slot_freed()
            case Claimed(key=key, fence=fence, left_s=left_s):
                with self._lock:
                    worker.held, worker.kill_at = Held(key, fence), time.monotonic() + left_s
                self._listener.event_stored(key.backtest_id)
            case Stored(backtest_id=backtest_id):
                self._listener.event_stored(backtest_id)
            case Done(backtest_id=backtest_id, state=state, timings_s=timings_s):
                self._listener.event_stored(backtest_id)
                self._listener.finished(Finished(State(state), timings_s))
                self._free(worker)
            case Dropped():
                self._free(worker)

    def _free(self, worker: _Worker) -> None:
        with self._changed:
            worker.delivered, worker.held, worker.cancelling, worker.kill_at = None, None, False, float("inf")
            if self._stopping:
                self._send(worker, Stop())
            self._changed.notify_all()
        self._listener.slot_freed()
        self._tell_dispatchers()

    def _bury(self, worker: _Worker) -> None:
        """Have the backtest of a worker that died settled, and replace the worker."""
        code = worker.child.bury()
        with self._changed:
            if worker.delivered is not None:  # before it is discarded: the keeper goes on while there is either
                if not worker.stopped:
                    self._log.warning("worker_died", exit_code=code, backtest_id=worker.delivered)
                self._settling.append(lambda: self._settle(worker, code))
            worker.child.close()
            self._workers.discard(worker)
            if not self._stopping:
                self._spawn_at.append(0.0 if worker.ready else time.monotonic() + _RESPAWN_S)
            self._changed.notify_all()
        self._keep_now.ring()

    def _send(self, worker: _Worker, message: Run | Cancel | Stop) -> None:
        with suppress(OSError):  # it died; the other thread will notice
            worker.child.pipe.send(message)

    # The keeper.

    def _keep_forever(self) -> None:
        while not self._is_over():
            rest_s = HEARTBEAT_S
            try:
                while self._settling:
                    self._settling.popleft()()
                self._beat()
            except psycopg.Error as error:
                self._log.warning("keeper_failed", problem=type(error).__name__)
                rest_s = HEARTBEAT_S / 4
            if not self._settling and not self._is_over():
                self._keeper.wait(self._keep_now.fd, rest_s)
            self._keep_now.quiet()
        self._keeper.close()

    def _is_over(self) -> bool:
        return self._stopped and not self._workers and not self._settling

    def _beat(self) -> None:
        """Renew the leases; ask workers to give up what was cancelled or is not ours any more."""
        with self._lock:
            held = {one.held.key.backtest_id: one.held for one in self._workers if one.held is not None}
            slots = 0 if self._stopping else min(self._size, sum(worker.ready for worker in self._workers))
        if self._pool_id is not None:
            self._keeper.announce(self._pool_id, slots)
        if not held:
            return
        ours = self._keeper.renew(held)
        for backtest_id, one in held.items():
            if ours.get(backtest_id, True):
                self._give_up(one)

    def _give_up(self, held: Held) -> None:
        """Ask a worker to give up, which it does between slices; it is killed when it does not within the grace."""
        with self._lock:
            for worker in self._workers:
                if worker.held is held and not worker.cancelling:
                    worker.cancelling = True
                    worker.kill_at = time.monotonic() + CANCEL_GRACE_S
                    self._send(worker, Cancel(held.key.backtest_id))
        self._hear_now.ring()

    def _settle(self, worker: _Worker, code: int) -> None:
        """Write what became of a backtest whose worker died; the lease's end does so when the database is away."""
        backtest_id, held = str(worker.delivered), worker.held
        state: State | None = None
        if held is not None and worker.verdict is not None:
            state = State.FAILED if self._keeper.fail(held, worker.verdict) else None
        elif held is not None and worker.cancelling and self._keeper.finish_cancelled(held):
            state = State.CANCELLED
        elif worker.stopped:
            state = self._keeper.hand_back(backtest_id, worker.worker_id)
            self._keeper.wake_dispatchers()
        else:
            state = self._keeper.release(backtest_id, worker.worker_id, f"its process ended with exit code {code}")
        self._listener.event_stored(backtest_id)
        if state is not None and state.terminal:
            self._listener.finished(Finished(state, {}))
        self._listener.slot_freed()
        self._tell_dispatchers()

    def _tell_dispatchers(self) -> None:
        """Tell services elsewhere that a slot is free."""
        if self._pool_id is not None and not self._stopping:
            self._settling.append(self._keeper.wake_dispatchers)
            self._keep_now.ring()


class Bell:
    """A descriptor that becomes readable when somebody rings; open for as long as the process may ring."""

    def __init__(self) -> None:
        self.fd, self._ring = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._ring, False)

    def ring(self) -> None:
        with suppress(BlockingIOError):  # full: it rings already
            os.write(self._ring, b"!")

    def quiet(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)
