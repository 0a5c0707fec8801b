"""The composition root of the results service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import grpc.aio

from klinecast.api.results.v1 import results_service_pb2, results_service_pb2_grpc
from services.results.access import ACCESS
from services.results.cache import PayloadCache
from services.results.reporting import Reporter
from services.results.retention_rpcs import RetentionRpcs
from services.results.retention_store import PostgresRetentionStore
from services.results.saving import StoredResult
from services.results.servicer import Parts, ResultsServicer
from services.results.settings import ResultsSettings
from services.results.store import PostgresResultStore
from services.results.sweeping import Sweeper
from services.results.telemetry import ResultsTelemetry
from services.runtime.app import Runtime
from services.runtime.migrations import Migrations

MIGRATIONS = Migrations("results", Path(__file__).parent / "migrations")


class ResultsApp:
    """The service, built."""

    access = MappingProxyType({results_service_pb2.DESCRIPTOR.services_by_name["ResultsService"].full_name: ACCESS})

    def __init__(self, settings: ResultsSettings, runtime: Runtime) -> None:
        store = PostgresResultStore(runtime.database, settings.policy)
        kept_by = PostgresRetentionStore(runtime.database, settings.policy, audit_keep_s=settings.result_audit_keep_s)
        cache = PayloadCache(settings.result_cache_bytes, settings.result_cache_ttl_s)
        self._telemetry = ResultsTelemetry(runtime.metrics, cache)
        self._migrated = runtime.migrated
        self._sweeper = Sweeper(kept_by, every_s=settings.sweep_every_s, observer=self._telemetry.sweeps)
        retention = RetentionRpcs(
            results=store, store=kept_by, service_policy=settings.policy, changed=self._sweeper.note_grown
        )
        self._servicer = ResultsServicer(
            Parts(
                store=store,
                cache=cache,
                retention=retention,
                reporter=Reporter(),
                saved=self._saved,
                read=self._sweeper.note_read,
                check_running=runtime.check_running,
            )
        )

    def _saved(self, stored: StoredResult) -> None:
        self._telemetry.saved(stored.stored_bytes)
        self._sweeper.note_grown(stored.key.tenant)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        results_service_pb2_grpc.add_ResultsServiceServicer_to_server(self._servicer, server)

    async def ready(self) -> bool:
        """It is ready when its database is."""
        return True

    async def run(self) -> None:
        """Sweep until cancelled."""
        await self._migrated.wait()
        await self._sweeper.run()


@asynccontextmanager
async def build_app(settings: ResultsSettings, runtime: Runtime) -> AsyncIterator[ResultsApp]:
    """Open the service without touching the database."""
    app = ResultsApp(settings, runtime)
    sweeping = asyncio.create_task(app.run())
    try:
        yield app
    finally:
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
