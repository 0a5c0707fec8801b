"""grpc.health.v1: readiness under '' and each service's name, liveness under a name of its own. Knows no service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from services.runtime.logs import get_logger

LIVENESS = "liveness"
"""SERVING for as long as the event loop turns; it never asks the database."""
PROBE_S = 1.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_LOG = get_logger(__name__)


class Health:
    """The health service of one server."""

    def __init__(self, service_names: tuple[str, ...]) -> None:
        self._names = ("", *service_names)
        self._servicer = HealthServicer()
        self._ready: bool | None = None

    async def register(self, server: grpc.aio.Server) -> None:
        """Add the service; not ready yet, alive already."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._servicer.set(LIVENESS, _SERVING)
        await self._set(False)

    async def follow(self, probe: Callable[[], Awaitable[bool]]) -> None:
        """Ask `probe` each second, until cancelled, and tell what it answers; an exception means not ready."""
        while True:
            await self._set(await _answer(probe))
            await asyncio.sleep(PROBE_S)

    async def stop(self) -> None:
        """Tell NOT_SERVING everywhere, for good."""
        await self._servicer.enter_graceful_shutdown()

    async def _set(self, ready: bool) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        _LOG.info("readiness", ready=ready)
        for name in self._names:
            await self._servicer.set(name, _SERVING if ready else _NOT_SERVING)


async def _answer(probe: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await probe()
    except Exception as error:
        _LOG.warning("readiness_probe_failed", error=type(error).__name__, exc_info=True)
        return False
