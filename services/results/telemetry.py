"""The metrics of the results service."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.results.cache import PayloadCache
from services.results.retention import Reason, Taken
from services.results.sweeping import Backlog, SweepObserver


class ResultsTelemetry:
    """Counters of what is saved and what goes, gauges of the cache and of what waits to be swept."""

    def __init__(self, registry: CollectorRegistry, cache: PayloadCache) -> None:
        prefix = "klinecast_results"
        self._saved = Counter(f"{prefix}_saved", "Results stored", registry=registry)
        self._saved_bytes = Counter(f"{prefix}_saved_bytes", "Bytes of results stored", registry=registry)
        self._swept = Counter(f"{prefix}_swept", "Results deleted by policy", ["reason"], registry=registry)
        self._swept_bytes = Counter(f"{prefix}_swept_bytes", "Their bytes", ["reason"], registry=registry)
        self._orphans = Counter(f"{prefix}_orphan_chunks", "Chunks without a result deleted", registry=registry)
        self._backlog = Gauge(
            f"{prefix}_sweep_backlog", "Expired results not deleted yet, counted up to 10,000", registry=registry
        )
        self._lag = Gauge(f"{prefix}_sweep_lag_seconds", "How long the oldest of them has expired", registry=registry)
        for reason in (Reason.EXPIRED, Reason.MAX_RESULTS, Reason.MAX_BYTES):
            self._swept.labels(reason.name.lower())
            self._swept_bytes.labels(reason.name.lower())
        registry.register(_CacheCollector(cache))

    @property
    def sweeps(self) -> SweepObserver:
        """Who the sweeper tells what it did."""
        return SweepObserver(self._taken, self._measured, self._orphans.inc)

    def saved(self, stored_bytes: int) -> None:
        """Count a stored result."""
        self._saved.inc()
        self._saved_bytes.inc(stored_bytes)

    def _taken(self, taken: Taken) -> None:
        for reason, (results, size) in taken.by_reason.items():
            self._swept.labels(reason.name.lower()).inc(results)
            self._swept_bytes.labels(reason.name.lower()).inc(size)

    def _measured(self, backlog: Backlog) -> None:
        self._backlog.set(backlog.results)
        self._lag.set(backlog.oldest_s)


class _CacheCollector(Collector):
    def __init__(self, cache: PayloadCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        prefix, cache = "klinecast_results_cache", self._cache
        yield GaugeMetricFamily(f"{prefix}_bytes", "Bytes of chunks in memory", value=cache.size_bytes)
        yield CounterMetricFamily(f"{prefix}_hits", "Chunks read from memory", value=cache.hits)
        yield CounterMetricFamily(f"{prefix}_misses", "Chunks read from the database", value=cache.misses)
