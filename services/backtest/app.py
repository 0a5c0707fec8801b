"""The composition root of the backtest service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import grpc.aio

from klinecast.api.backtest.v1 import backtest_service_pb2, backtest_service_pb2_grpc
from klinecast.client import Client, Security
from services.backtest import jobs
from services.backtest.access import ACCESS
from services.backtest.catalogue import Catalogue
from services.backtest.dispatching import Dispatcher
from services.backtest.executors.base import Executor, Finished
from services.backtest.executors.local import LocalExecutor
from services.backtest.expiry import ResultExpiry
from services.backtest.jobs import WAKE_CHANNEL, JobKey, Rescued, State
from services.backtest.neighbours import Neighbours
from services.backtest.queue_store import PostgresQueue
from services.backtest.reusing import Reuser
from services.backtest.servicer import BacktestServicer, Parts
from services.backtest.settings import BacktestSettings
from services.backtest.store import PostgresJobStore
from services.backtest.strategies import StrategyRegistry
from services.backtest.submitting import Admission, Submitter
from services.backtest.telemetry import BacktestTelemetry, WorkerCollector
from services.backtest.upkeep import Upkeep
from services.backtest.vetting import Vetting
from services.backtest.watching import WatchHub
from services.runtime.app import Runtime
from services.runtime.ids import new_id
from services.runtime.listen import Listener
from services.runtime.migrations import Migrations
from services.runtime.tracing import TraceCarrier

CALL_TIMEOUT_S = 2.0
"""How long another service may be away before a caller of this one is told."""
MIGRATIONS = Migrations("backtest", Path(__file__).parent / "migrations")


class BacktestApp:
    """The service, built; knows who must hear of what."""

    access = MappingProxyType({backtest_service_pb2.DESCRIPTOR.services_by_name["BacktestService"].full_name: ACCESS})

    def __init__(self, settings: BacktestSettings, runtime: Runtime, client: Client, catalogue: Catalogue) -> None:
        self._runtime = runtime
        self._settings = settings
        self._telemetry = BacktestTelemetry(runtime.metrics)
        self._store = PostgresJobStore(runtime.database)
        self._origin = new_id()
        self._queue = PostgresQueue(runtime.database, self._origin)
        self._hub = WatchHub(self._store)
        self._neighbours = Neighbours(client)
        self._reuser = Reuser(
            queue=self._queue,
            get_range=self._neighbours.get_range,
            keep_result=self._neighbours.keep_result,
            settled=self._reused,
        )
        self._executor = self._new_executor(settings)
        self._dispatcher = Dispatcher(
            self._store,
            self._queue,
            self._executor,
            limit=settings.max_running,
            limits_of=settings.limits_of,
            on_rescued=self._rescued,
        )
        self._drained_at = 0.0
        self._listener = Listener(runtime.database.url, WAKE_CHANNEL, self._woken)
        expiry = ResultExpiry(self._store, self._neighbours.check_results)
        self._upkeep = Upkeep(
            self._store,
            delete_result=self._neighbours.delete_result,
            sample=self._telemetry.sample,
            look_for_expired=expiry.look,
            keep_s=settings.retention_s,
        )
        self._vetting = Vetting(catalogue, self._store)
        submitter = Submitter(
            queue=self._queue,
            strategies=catalogue,
            results=self._reuser,
            get_range=self._neighbours.get_range,
            ttl_bounds=self._neighbours.ttl_bounds,
            vetted=self._vetting.wait,
            admission=Admission(settings.max_queued, settings.max_klines, settings.limits_of),
        )
        self._servicer = BacktestServicer(
            Parts(
                store=self._store,
                expiry=expiry,
                submitter=submitter,
                hub=self._hub,
                catalogue=catalogue,
                shutdown=runtime.shutdown,
                heartbeat_s=settings.watch_heartbeat_s,
                work_arrived=self._dispatcher.wake,
            )
        )

    def _new_executor(self, settings: BacktestSettings) -> Executor:
        if settings.broker_url is not None and settings.executor == "celery":
            from services.backtest.executors.celery import CeleryExecutor  # only here: the package is an extra

            return CeleryExecutor(settings.broker_url.get_secret_value())
        local = LocalExecutor(settings.database.url.get_secret_value(), self, workers=settings.workers)
        self._runtime.metrics.register(WorkerCollector(local.pids))
        return local

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        backtest_service_pb2_grpc.add_BacktestServiceServicer_to_server(self._servicer, server)

    async def ready(self) -> bool:
        """Tell whether a worker is warm: no backtest pays for a compiler."""
        return self._executor.ready or self._settings.workers == 0

    async def run(self) -> None:
        """Dispatch, rescue, listen and tidy up until cancelled."""
        await self._runtime.migrated.wait()
        async with asyncio.TaskGroup() as group:
            self._executor.start()
            group.create_task(self._vetting.run())
            group.create_task(self._dispatcher.run())
            group.create_task(self._reuser.run())
            group.create_task(self._listener.run())
            group.create_task(self._upkeep.run())
            group.create_task(self._stop_executor())

    async def close(self) -> None:
        """Stop what reads."""
        await self._hub.close()
        self._neighbours.close()

    async def _stop_executor(self) -> None:
        await self._runtime.shutdown.wait()
        self._drained_at = time.monotonic() + self._settings.shutdown.drain_seconds
        await self.stop_workers()

    async def stop_workers(self) -> None:
        """End every worker, when it has finished or what is left of the drain is over."""
        await asyncio.to_thread(self._executor.stop, max(0.0, self._drained_at - time.monotonic()))

    def event_stored(self, backtest_id: str) -> None:
        """Wake the watchers of a backtest without waiting for the notification."""
        self._hub.wake(backtest_id)

    def finished(self, finished: Finished) -> None:
        """Count a terminal state that a worker of ours committed; an equal backtest may have waited for it."""
        self._telemetry.finished(finished.state, finished.timings_s)
        self._reuser.wake()

    def slot_freed(self) -> None:
        """Look for the next backtest."""
        self._dispatcher.wake()

    def _reused(self, key: JobKey) -> None:
        self._telemetry.finished(State.SUCCEEDED, {})
        self._hub.wake(key.backtest_id)

    def _rescued(self, rescued: Rescued) -> None:
        self._telemetry.rescued()
        if rescued.state.terminal:
            self._telemetry.finished(rescued.state, {})
        self._hub.wake(rescued.key.backtest_id)

    def _woken(self, payload: str | None) -> None:
        what, _, detail = (payload or "").partition(" ")
        if payload is None:
            self._hub.wake(None)
        elif what != jobs.QUEUE:
            self._hub.wake(what, int(detail or 0))
        if payload is None or (what == jobs.QUEUE and detail != self._origin):
            self._dispatcher.wake()
            self._reuser.wake()


@asynccontextmanager
async def build_app(settings: BacktestSettings, runtime: Runtime) -> AsyncIterator[BacktestApp]:
    """Open the service without touching the database."""
    catalogue = Catalogue(StrategyRegistry())
    for name, problem in catalogue.broken.items():
        runtime.logger.warning("plug_in_left_out", plug_in=name, problem=problem)
    interceptors = [TraceCarrier()]
    targets = {"data": settings.data_target, "results": settings.results_target}
    security = Security(**settings.client.model_dump())
    with Client(**targets, timeout_s=CALL_TIMEOUT_S, security=security, interceptors=interceptors) as client:
        app = BacktestApp(settings, runtime, client, catalogue)
        running = asyncio.create_task(app.run())
        try:
            yield app
        finally:
            await app.stop_workers()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await app.close()
