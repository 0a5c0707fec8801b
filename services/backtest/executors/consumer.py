"""The process that takes backtests from the broker: a Celery worker whose tasks are run by a pool of our own.

The pool gives what Celery's cannot: leases renewed beside the computation, a cancel, a deadline, a memory limit.
"""

from __future__ import annotations

import threading

from celery import Celery, signals
from prometheus_client import CollectorRegistry

from services.backtest.executors.base import Finished
from services.backtest.executors.broker import TASK, make_celery
from services.backtest.executors.pool import WorkerPool
from services.backtest.jobs import REDELIVER_S
from services.backtest.settings import WorkerSettings
from services.backtest.telemetry import BacktestTelemetry
from services.runtime.config import SettingsError, load_settings, show_settings
from services.runtime.lifecycle import stop_with_supervisor, write_port_file
from services.runtime.logs import configure_logging, get_logger
from services.runtime.metrics import new_registry, start_metrics_server

_LOG = get_logger("consumer")


class _Counts:
    """Hears of the pool's backtests and counts them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._telemetry = BacktestTelemetry(registry)

    def event_stored(self, backtest_id: str) -> None:
        """Nobody watches here: watchers hear of it from Postgres."""

    def finished(self, finished: Finished) -> None:
        """Count."""
        self._telemetry.finished(finished.state, finished.timings_s)

    def slot_freed(self) -> None:
        """The pool tells the dispatchers itself."""


def run(*, shows_settings: bool = False) -> int:
    """Take backtests from the broker until SIGTERM or SIGINT; return the exit code."""
    try:
        settings = load_settings(WorkerSettings)
        if shows_settings:
            print(show_settings(settings))
            return 0
        if settings.broker_url is None:
            raise SettingsError(("KLINECAST_BROKER_URL: is required: a worker without a service listens at a broker",))
    except SettingsError as error:
        print(error)
        return 2
    configure_logging(settings.log_level, settings.log_format, "worker")
    if settings.supervisor_pipe_fd is not None:
        stop_with_supervisor(settings.supervisor_pipe_fd)
    registry = new_registry()
    page = start_metrics_server(registry, settings.metrics_listen)
    pool = WorkerPool(
        settings.database.url.get_secret_value(), _Counts(registry), size=settings.workers, announces=True
    )
    pool.start()
    try:
        _LOG.info("started", metrics_port=page.port, workers=settings.workers)
        if settings.port_file:
            write_port_file(settings.port_file, {"metrics_port": page.port})
        return _consume(make_celery(settings.broker_url.get_secret_value()), pool, settings)
    finally:
        pool.stop(0.0)
        page.close()
        _LOG.info("stopped")


def _consume(app: Celery, pool: WorkerPool, settings: WorkerSettings) -> int:
    @app.task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def run_backtest(backtest_id: str) -> None:
        """Hand a backtest to a worker and wait until it is rid of it; the row decides whether there is one to run."""
        freed = pool.deliver(str(backtest_id), wait_s=REDELIVER_S)
        if freed is not None:
            freed.wait()

    def drain(**_: object) -> None:
        threading.Thread(target=pool.stop, args=(settings.shutdown.drain_seconds,), name="drain").start()

    signals.worker_shutting_down.connect(drain)
    worker = app.Worker(
        pool="threads",
        concurrency=settings.workers,
        without_gossip=True,
        without_mingle=True,
        optimization="fair",
        loglevel=settings.log_level.upper(),
    )
    worker.start()
    return int(worker.exitcode or 0)
