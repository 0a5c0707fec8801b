"""The process that takes backtests from the broker: a Celery worker that hands them to a pool of our own.

The pool gives what Celery's cannot: leases renewed beside the computation, a cancel, a deadline, a memory limit. A
message is taken only while a worker is idle; else it is left to another machine.
"""

from __future__ import annotations

import uuid
from typing import Any

from celery import Celery, bootsteps
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.connection import Connection
from prometheus_client import CollectorRegistry

from services.backtest.executors.base import Finished
from services.backtest.executors.broker import TASK, make_celery
from services.backtest.executors.pool import Bell, WorkerPool
from services.backtest.settings import WorkerSettings
from services.backtest.telemetry import BacktestTelemetry, WorkerCollector
from services.runtime.config import SettingsError, load_settings, show_settings
from services.runtime.lifecycle import give_up_privileges, stop_with_supervisor, write_port_file
from services.runtime.logs import configure_logging, get_logger
from services.runtime.metrics import new_registry, start_metrics_server

_RECONNECT_S = 0.5
"""Between two tries to reach a broker that is away."""
_LOG = get_logger("consumer")


class _News:
    """Hears of the pool's backtests: counts them, and has the Celery worker look for more."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._telemetry = BacktestTelemetry(registry)
        self.freed = Bell()

    def event_stored(self, backtest_id: str) -> None:
        """Nobody watches here: watchers hear of it from Postgres."""

    def finished(self, finished: Finished) -> None:
        """Count."""
        self._telemetry.finished(finished.state, finished.timings_s)

    def slot_freed(self) -> None:
        """Wake the loop that waits for messages."""
        self.freed.ring()


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
    give_up_privileges()
    if settings.supervisor_pipe_fd is not None:
        stop_with_supervisor(settings.supervisor_pipe_fd)
    registry = new_registry()
    page = start_metrics_server(registry, settings.metrics_listen)
    news = _News(registry)
    pool = WorkerPool(settings.database.url.get_secret_value(), news, size=settings.workers, announces=True)
    registry.register(WorkerCollector(pool.pids))
    pool.start()
    try:
        _LOG.info("started", metrics_port=page.port, workers=settings.workers)
        if settings.port_file:
            write_port_file(settings.port_file, {"metrics_port": page.port})
        return _consume(make_celery(settings.broker_url.get_secret_value()), pool, news.freed)
    finally:
        pool.stop(settings.shutdown.drain_seconds)
        page.close()
        _LOG.info("stopped")


class _Consumer(Consumer):  # type: ignore[misc]
    """Celery's, whose pauses between tries to connect do not grow to half a minute."""

    def ensure_connected(self, conn: Connection) -> Connection:
        """Try until the broker is there or the worker is told to stop."""
        conn.ensure_connection(  # type: ignore[no-untyped-call]
            lambda error, _: _LOG.debug("broker_away", problem=type(error).__name__),
            interval_start=_RECONNECT_S,
            interval_step=0,
            interval_max=_RECONNECT_S,
            callback=state.maybe_shutdown,
        )
        return conn


def _consume(app: Celery, pool: WorkerPool, freed: Bell) -> int:
    @app.task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def run_backtest(backtest_id: str) -> None:
        """Hand a backtest to a worker; the row decides whether there is one to run."""
        pool.deliver(str(uuid.UUID(backtest_id)))

    class TakeWhenIdle(bootsteps.StartStopStep):  # type: ignore[misc]
        """Asks the pool before each message, as Celery's worker_disable_prefetch asks its own; once per connection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            qos = consumer.task_consumer.channel.qos
            may_take = qos.can_consume
            qos.can_consume = lambda: pool.free_slots() > 0 and may_take()
            consumer.hub.add_reader(freed.fd, freed.quiet)

    app.steps["consumer"].add(TakeWhenIdle)
    app.conf.worker_consumer = _Consumer
    worker = app.Worker(pool="solo", without_gossip=True, without_mingle=True, loglevel="WARNING", quiet=True)
    worker.start()
    return int(worker.exitcode or 0)
