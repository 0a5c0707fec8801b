"""A server span around every call, continuing the caller's trace.

Our own rather than the instrumentation library's: that one keeps the span open in a generator's frame, does not know
handlers that write, and records an exception for every abort.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from opentelemetry import propagate, trace

from services.runtime.interceptors.call import Around, Call

_SERVER_FAULTS = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
)


def tracing_around(tracer: trace.Tracer) -> Around:
    """Return an around that opens a span per call; health checks get none."""

    @asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        if call.method.service.startswith("grpc."):
            yield
            return
        with tracer.start_as_current_span(
            call.method.path.strip("/"),
            context=propagate.extract(call.metadata),
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(call),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            error: BaseException | None = None
            try:
                yield
            except BaseException as raised:
                error = raised
                raise
            finally:
                _finish(span, call.code(error))

    return around


def _attributes(call: Call) -> dict[str, str]:
    return {
        "rpc.system": "grpc",
        "rpc.service": call.method.service,
        "rpc.method": call.method.name,
        "network.peer.address": call.context.peer(),
        "klinecast.correlation_id": call.correlation_id,
    }


def _finish(span: trace.Span, code: grpc.StatusCode) -> None:
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code in _SERVER_FAULTS:
        span.set_status(trace.Status(trace.StatusCode.ERROR, code.name))
