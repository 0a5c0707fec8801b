"""Spans of a server arrive at a collector and continue the caller's trace."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.runtime.config import TracingSettings
from services.runtime.tracing import configure_tracing

SERVICE = "klinecast.test.EchoService"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
Serve = Callable[..., Any]


class Collector(collector_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.target = ""

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name
        """Keep the spans."""
        self.spans += [span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans]
        return collector_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """Return a running collector."""
    collector, server = Collector(), grpc.aio.server()
    collector_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield collector
    await server.stop(0)


async def echo(channel: grpc.aio.Channel, word: str, **options: Any) -> None:
    """Call Echo, whatever comes of it."""
    with suppress(grpc.aio.AioRpcError):
        await channel.unary_unary(f"/{SERVICE}/Echo", StringValue.SerializeToString)(StringValue(value=word), **options)


async def test_span_continues_the_trace_and_tells_the_status(
    serve: Serve, empty_database_url: str, collector: Collector
) -> None:
    tracing = TracingSettings(otlp_endpoint=collector.target)
    async with (
        serve(empty_database_url, tracing=tracing) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        await server.runtime.migrated.wait()
        await echo(channel, "", metadata=(("traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01"),))
    (span,) = collector.spans
    attributes = {one.key: one.value for one in span.attributes}
    assert (span.trace_id.hex(), span.name) == (TRACE_ID, f"{SERVICE}/Echo")
    assert attributes["rpc.grpc.status_code"].int_value == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_outgoing_calls_carry_the_trace_on(serve: Serve, empty_database_url: str, collector: Collector) -> None:
    settings = TracingSettings(otlp_endpoint=collector.target)
    caller = configure_tracing("caller", settings)
    interceptors = aio_client_interceptors(tracer_provider=caller.provider)
    async with (
        serve(empty_database_url, tracing=settings) as server,
        grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel,
    ):
        await server.runtime.migrated.wait()
        with caller.tracer.start_as_current_span("outer"):
            await echo(channel, "w")
    await asyncio.to_thread(caller.shutdown)
    assert len(collector.spans) == 3
    assert len({span.trace_id for span in collector.spans}) == 1
