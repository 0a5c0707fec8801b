"""The usual grpc_server_ metrics, for streams too."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.runtime.interceptors.call import Call, Method

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class RpcMetrics:
    """Counts calls and how long they take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started_total", "Calls begun.", _LABELS, registry=registry)
        self._handled = Counter("grpc_server_handled_total", "Calls ended.", (*_LABELS, "grpc_code"), registry=registry)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Duration of calls.", _LABELS, registry=registry, buckets=_BUCKETS
        )
        self._running = Gauge("grpc_server_running", "Calls in flight.", _LABELS, registry=registry)

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Count one call."""
        labels = (call.method.type, call.method.service, call.method.name)
        self._started.labels(*labels).inc()
        self._running.labels(*labels).inc()
        started, error = time.perf_counter(), None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._running.labels(*labels).dec()
            self._handled.labels(*labels, _code_name(call, error)).inc()
            self._seconds.labels(*labels).observe(time.perf_counter() - started)

    def count_refused(self, method: Method, code: str) -> None:
        """Count a call that ended before it began."""
        labels = (method.type, method.service, method.name)
        self._started.labels(*labels).inc()
        self._handled.labels(*labels, code).inc()


def _code_name(call: Call, error: BaseException | None) -> str:
    return call.code(error).name
