"""The composition root of a worker process: warm up, then claim and run what the parent delivers, one at a time."""

from __future__ import annotations

import os
import queue
import resource
import threading
from multiprocessing.connection import Connection

from opentelemetry import trace

from klinecast.client import Client, Security
from services.backtest import engine
from services.backtest.catalogue import Catalogue
from services.backtest.settings import WorkerSettings
from services.backtest.strategies import StrategyRegistry
from services.backtest.worker.attempt import Attempt
from services.backtest.worker.protocol import Cancel, FromWorker, Ready, Run, Stop, ToWorker
from services.backtest.worker.store import WorkerStore
from services.runtime.config import forget_settings, load_settings
from services.runtime.lifecycle import die_with_parent, give_up_privileges
from services.runtime.logs import configure_logging
from services.runtime.tracing import TraceCarrier, configure_tracing


class Mailbox:
    """Messages of the parent: read by a thread, so that a cancel or the parent's end is noticed at once."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._cancelled: str | None = None
        threading.Thread(target=self._receive, name="mailbox", daemon=True).start()

    def send(self, message: FromWorker) -> None:
        """Tell the parent."""
        with self._sending:
            self._pipe.send(message)

    def next_run(self) -> Run | None:
        """Wait for work; None means stop."""
        return self._runs.get()

    def is_cancelled(self, backtest_id: str) -> bool:
        """Tell whether the parent asked to give this backtest up."""
        return self._cancelled == backtest_id

    def _receive(self) -> None:
        while True:
            try:
                message: ToWorker = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(0)  # the parent is gone: whatever runs here is not ours any more
            match message:
                case Run():
                    self._cancelled = None  # it was about an earlier attempt, perhaps at this very backtest
                    self._runs.put(message)
                case Cancel(backtest_id=backtest_id):
                    self._cancelled = backtest_id
                case Stop():
                    self._runs.put(None)


def run_child(pipe_fd: int, worker_id: str) -> int:
    """Serve the parent at the other end of the socket until it ends; return the exit code."""
    die_with_parent()
    mailbox = Mailbox(Connection(pipe_fd))
    settings = load_settings(WorkerSettings)
    forget_settings()
    give_up_privileges()
    configure_logging(settings.log_level, settings.log_format, "worker")
    tracing = configure_tracing("worker", settings.tracing)
    _limit_memory(settings.worker_memory_mb)
    catalogue = Catalogue(StrategyRegistry())
    engine.warm()
    store = WorkerStore(settings.database.url.get_secret_value(), worker_id)
    with Client(
        data=settings.data_target,
        results=settings.results_target,
        security=Security(**settings.client.model_dump()),
        interceptors=[TraceCarrier()],
    ) as client:
        attempt = Attempt(store=store, client=client, catalogue=catalogue, mailbox=mailbox, tracer=tracing.tracer)
        _connect(store)
        mailbox.send(Ready())
        while (run := mailbox.next_run()) is not None:
            attempt.run(run.backtest_id)
    store.close()
    tracing.shutdown()
    return 0


def _connect(store: WorkerStore) -> None:
    try:
        store.connect()
    except Exception:  # the database is away: the first claim connects
        trace.get_current_span().add_event("database_away_at_start")


def _limit_memory(megabytes: int) -> None:
    """Bound private memory, so that a greedy strategy fails alone instead of taking the machine with it."""
    limit = megabytes * 1024 * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
