"""grpc.health.v1: readiness under '' and each service's name, liveness under a name of its own. Knows no service.

It asks nobody for a token, so what it keeps for a caller is bounded: the request, the time until it is there, watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from klinecast.errors import DeadlineExceeded, FieldViolation, InvalidArgument, ResourceExhausted
from services.runtime.interceptors.cancellation import HEALTH_SERVICE
from services.runtime.logs import get_logger

LIVENESS = "liveness"
"""SERVING for as long as the event loop turns; it never asks the database."""
PROBE_S = 1.0
MOST_WATCHES = 64
LONGEST_REQUEST = 256
RECEIVE_S = 2.0
"""A request that has not come by then is not waited for: gRPC holds as much of it as is there."""
_Requests: TypeAlias = AsyncIterator[health_pb2.HealthCheckRequest]
_Context: TypeAlias = "grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_LOG = get_logger(__name__)


class Health:
    """The health service of one server."""

    def __init__(self, service_names: tuple[str, ...]) -> None:
        self._names = ("", *service_names)
        self._servicer = HealthServicer()
        self._ready: bool | None = None
        self._watches = 0

    async def register(self, server: grpc.aio.Server) -> None:
        """Add the service; not ready yet, alive already."""
        # As streams of requests: they begin before the request is there, which for others has no bound in time.
        handlers = {
            name: grpc.stream_stream_rpc_method_handler(
                behaviour, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
            )
            for name, behaviour in (("Check", self._check), ("Watch", self._watch))
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(HEALTH_SERVICE, handlers),))
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

    async def _check(self, requests: _Requests, context: _Context) -> None:
        await context.write(await self._servicer.Check(await _received(requests), context))

    async def _watch(self, requests: _Requests, context: _Context) -> None:
        request = await _received(requests)
        if self._watches >= MOST_WATCHES:
            raise ResourceExhausted(f"this process has {MOST_WATCHES} health watches already")
        self._watches += 1
        try:
            await self._servicer.Watch(request, context)
        finally:
            self._watches -= 1

    async def _set(self, ready: bool) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        _LOG.info("readiness", ready=ready)
        for name in self._names:
            await self._servicer.set(name, _SERVING if ready else _NOT_SERVING)


async def _received(requests: _Requests) -> health_pb2.HealthCheckRequest:
    try:
        async with asyncio.timeout(RECEIVE_S):
            request = await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(f"the request did not come within {RECEIVE_S:g} s") from None
    if request is None or request.ByteSize() > LONGEST_REQUEST:  # its unknown fields too, which a watch would keep
        violation = FieldViolation("request", f"is required, of at most {LONGEST_REQUEST} bytes")
        raise InvalidArgument.of(violation)
    return request


async def _answer(probe: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await probe()
    except Exception as error:
        _LOG.warning("readiness_probe_failed", error=type(error).__name__, exc_info=True)
        return False
