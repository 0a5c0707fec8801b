"""One line per finished call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from services.runtime.interceptors.call import Call
from services.runtime.logs import get_logger
from services.runtime.tenancy import current_subject, current_tenant

_LOG = get_logger("access")
_QUIET = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


@asynccontextmanager
async def access_log_around(call: Call) -> AsyncIterator[None]:
    """Log method, code, duration, peer and tenant; probes at debug level. The caller does not wait for the line."""
    started = time.perf_counter()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        duration_ms = (time.perf_counter() - started) * 1000
        asyncio.get_running_loop().call_soon(_log, call, call.code(error), call.context.peer(), duration_ms)


def _log(call: Call, code: grpc.StatusCode, peer: str, duration_ms: float) -> None:
    write = _LOG.debug if call.method.service in _QUIET else _LOG.info
    write(
        "rpc",
        method=call.method.path,
        code=code.name,
        duration_ms=round(duration_ms, 3),
        peer=peer,
        tenant=current_tenant.get(),
        subject=current_subject.get(),
        correlation_id=call.correlation_id,
    )
