"""The metrics of the backtest service; counted once, by the process that committed the terminal state or its parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.backtest.jobs import Backlog, Phase, State

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class BacktestTelemetry:
    """Counters, durations and gauges of backtests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "klinecast_backtest"
        self._total = Counter(f"{prefix}_backtests", "Backtests that became terminal", ["state"], registry=registry)
        self._duration = Histogram(
            f"{prefix}_duration_seconds", "From start to terminal state", registry=registry, buckets=_SECONDS
        )
        self._phase = Histogram(
            f"{prefix}_phase_duration_seconds", "Per phase", ["phase"], registry=registry, buckets=_SECONDS
        )
        self._wait = Histogram(f"{prefix}_wait_seconds", "From creation to start", registry=registry, buckets=_SECONDS)
        self._active = Gauge(f"{prefix}_active", "Backtests that are RUNNING", registry=registry)
        self._queued = Gauge(f"{prefix}_queued", "Backtests that are QUEUED", registry=registry)
        self._queue_age = Gauge(
            f"{prefix}_queue_age_seconds", "How long the oldest QUEUED backtest has waited", registry=registry
        )
        self._rescues = Counter(f"{prefix}_rescues", "Backtests taken back from dead workers", registry=registry)
        for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
            self._total.labels(state.value)
        for phase in Phase:
            self._phase.labels(phase.value.lower())

    def finished(self, state: State, timings_s: Mapping[str, float]) -> None:
        """Count a terminal state and its durations."""
        self._total.labels(state.value).inc()
        running = {name: seconds for name, seconds in timings_s.items() if name != "queued"}
        if running:
            self._duration.observe(sum(running.values()))
        for name, seconds in running.items():
            self._phase.labels(name).observe(seconds)
        if "queued" in timings_s:
            self._wait.observe(timings_s["queued"])

    def rescued(self) -> None:
        """Count a backtest taken back from a dead worker."""
        self._rescues.inc()

    def sample(self, backlog: Backlog) -> None:
        """Set the gauges."""
        self._active.set(backlog.running)
        self._queued.set(backlog.queued)
        self._queue_age.set(backlog.oldest_s)


class WorkerCollector(Collector):
    """Memory and CPU of the worker processes of this one."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._cpu_s: dict[tuple[int, float], float] = {}
        """By process; those that ended count with what was seen last, so that the sum never falls."""

    def collect(self) -> Iterator[Metric]:
        """Look at them now."""
        resident = 0
        for pid in self._pids():
            with suppress(psutil.Error):  # it ended meanwhile
                process = psutil.Process(pid)
                with process.oneshot():
                    cpu = process.cpu_times()
                    self._cpu_s[pid, process.create_time()] = cpu.user + cpu.system
                    resident += process.memory_info().rss
        prefix = "klinecast_backtest_worker"
        yield GaugeMetricFamily(f"{prefix}_memory_bytes", "Resident memory of all workers", value=resident)
        yield CounterMetricFamily(f"{prefix}_cpu_seconds", "CPU time of all workers", value=sum(self._cpu_s.values()))
