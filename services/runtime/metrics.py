"""The process's Prometheus registry, its own memory and CPU, and the page that shows them. Knows no service."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.lifecycle import split_address

SILENCE_S = 5.0
"""A connection to the page that says or takes nothing for so long is closed: it holds a thread."""


class DatabaseCollector(Collector):
    """Connections of a service's pool."""

    def __init__(self, service: str, connections: Callable[[], tuple[int, int, int]]) -> None:
        self._prefix = f"klinecast_{service}_database_connections"
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        """Look at them now."""
        in_use, idle, limit = self._connections()
        states = GaugeMetricFamily(self._prefix, "Connections of the database pool", labels=["state"])
        states.add_metric(["in_use"], in_use)
        states.add_metric(["idle"], idle)
        yield states
        yield GaugeMetricFamily(f"{self._prefix}_limit", "Connections it may have", value=limit)


class AuthMetrics:
    """What befalls the files of certificates, keys and tokens."""

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            f"klinecast_{service}_auth_files_refused",
            "Looks at changed files of certificates, keys or tokens that cannot be used; those before stay in force.",
            registry=registry,
        )
        self._expiry = Gauge(
            f"klinecast_{service}_certificate_expiry_timestamp_seconds",
            "End of the server's certificate since the epoch; 0 without TLS.",
            registry=registry,
        )

    def file_refused(self) -> None:
        """Count one."""
        self._refused.inc()

    def certificate_expires(self, at: Callable[[], float]) -> None:
        """Tell what `at` returns whenever somebody looks."""
        self._expiry.set_function(at)


class ProcessCollector(Collector):
    """Memory, CPU, threads and open files of this process, on every system psutil knows."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        with self._process.oneshot():
            memory, cpu = self._process.memory_info(), self._process.cpu_times()
            yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory in bytes.", value=memory.rss)
            yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory in bytes.", value=memory.vms)
            yield CounterMetricFamily(
                "process_cpu_seconds", "User and system CPU time in seconds.", value=cpu.user + cpu.system
            )
            yield GaugeMetricFamily(
                "process_start_time_seconds", "Start of the process since the epoch.", value=self._process.create_time()
            )
            yield GaugeMetricFamily("process_threads", "Threads of the process.", value=self._process.num_threads())
            yield GaugeMetricFamily("process_open_fds", "Open file descriptors.", value=self._process.num_fds())


def new_registry() -> CollectorRegistry:
    """Return a registry of its own with the process's metrics; never the library's global one."""
    registry = CollectorRegistry()
    registry.register(ProcessCollector())
    return registry


class _PageServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 makes a burst of connections wait for seconds


class _SilentHandler(WSGIRequestHandler):
    timeout = SILENCE_S

    def handle(self) -> None:
        with suppress(TimeoutError, ConnectionError):  # gone, or mute: nobody to answer
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        return


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """The running Prometheus page."""

    port: int
    _server: WSGIServer
    _thread: threading.Thread

    def close(self) -> None:
        """Stop the page and join its thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics_server(registry: CollectorRegistry, listen: str) -> MetricsServer:
    """Serve the registry at host:port in a thread of its own; port 0 takes a free one."""
    host, port = split_address(listen)
    family = type("PageServer", (_PageServer,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
    server: WSGIServer = make_server(host, port, make_wsgi_app(registry), family, _SilentHandler)
    # The library's own start_http_server takes half a second to stop.
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="metrics-page", daemon=True)
    thread.start()
    return MetricsServer(server.server_port, server, thread)
