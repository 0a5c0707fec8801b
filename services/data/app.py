"""The composition root of the data service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import grpc.aio

from klinecast.api.data.v1 import data_service_pb2, data_service_pb2_grpc
from services.data.access import ACCESS
from services.data.cache import BlockCache
from services.data.indicators.rpcs import IndicatorRpcs
from services.data.indicators.store import IndicatorStore
from services.data.indicators.stream import IndicatorStreams
from services.data.reading import BlockReader
from services.data.servicer import DataServicer, Parts
from services.data.settings import DataSettings
from services.data.store import DataStore
from services.data.stream import KlineStreams
from services.data.telemetry import DataTelemetry
from services.runtime.app import Runtime
from services.runtime.migrations import Migrations

MIGRATIONS = Migrations("data", Path(__file__).parent / "migrations")


class DataApp:
    """The service, built."""

    access = MappingProxyType({data_service_pb2.DESCRIPTOR.services_by_name["DataService"].full_name: ACCESS})

    def __init__(self, settings: DataSettings, runtime: Runtime) -> None:
        store = DataStore(runtime.database)
        telemetry = DataTelemetry(runtime.metrics)
        self._reader = BlockReader(store, BlockCache(settings.cache_bytes), telemetry)
        streams, indicators = KlineStreams(store, self._reader), IndicatorStore(runtime.database)
        self._servicer = DataServicer(
            Parts(
                catalog=store,
                writer=store,
                flaws=store,
                streams=streams,
                indicators=IndicatorRpcs(
                    catalog=indicators,
                    writer=indicators,
                    reader=indicators,
                    streams=IndicatorStreams(streams, indicators),
                    check_running=runtime.check_running,
                ),
                telemetry=telemetry,
                check_running=runtime.check_running,
            )
        )

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        data_service_pb2_grpc.add_DataServiceServicer_to_server(self._servicer, server)

    async def close(self) -> None:
        """Wait for what still writes."""
        await self._reader.close()

    async def ready(self) -> bool:
        """Tell that nothing but the database is waited for."""
        return True


@asynccontextmanager
async def build_app(settings: DataSettings, runtime: Runtime) -> AsyncIterator[DataApp]:
    """Open the service without touching the database."""
    app = DataApp(settings, runtime)
    try:
        yield app
    finally:
        await app.close()
