"""OpenTelemetry spans of this process: the provider, its exporter and the interceptors of outgoing calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.runtime.config import TracingSettings
from services.runtime.deadlines import within_deadline
from services.runtime.ids import new_id

FLUSH_MS = 2_000
"""What a stopping process spends on its last spans at most."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """The provider of one process; never the library's global one unless `install` is called."""

    provider: TracerProvider
    tracer: trace.Tracer

    def install(self) -> None:
        """Make it the provider of libraries that ask the global one; once per process."""
        trace.set_tracer_provider(self.provider)

    def shutdown(self) -> None:
        """Send the last spans, or give them up after FLUSH_MS."""
        self.provider.force_flush(FLUSH_MS)
        self.provider.shutdown()


def configure_tracing(service: str, settings: TracingSettings, processors: Sequence[SpanProcessor] = ()) -> Tracing:
    """Build the provider; spans are exported when an endpoint is set, and given to `processors` besides."""
    resource = Resource.create({SERVICE_NAME: f"klinecast-{service}", SERVICE_INSTANCE_ID: new_id()})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    if settings.otlp_endpoint:
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_insecure, timeout=2)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1_000))
    return Tracing(provider=provider, tracer=provider.get_tracer("klinecast"))


@dataclass(frozen=True, slots=True)
class _Details(grpc.ClientCallDetails):
    """What grpc wants of call details, with our metadata."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class TraceCarrier(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Sends the current span's context with every call of a synchronous channel, which ends with the call it is for.

    The instrumentation library's synchronous interceptor is none of grpc's: intercept_channel refuses it.
    """

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Carry the trace of a unary call."""
        return continuation(_carrying(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Carry the trace of a server stream."""
        return continuation(_carrying(details), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Carry the trace of a client stream."""
        return continuation(_carrying(details), requests)


def _carrying(details: Any) -> _Details:
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    metadata = (*(details.metadata or ()), *carrier.items())
    wait, compression = getattr(details, "wait_for_ready", None), getattr(details, "compression", None)
    timeout = within_deadline(details.timeout)
    return _Details(details.method, timeout, metadata, details.credentials, wait, compression)
