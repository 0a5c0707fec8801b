"""The metrics of the results service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.results.cache import PayloadCache
from services.results.keeping import Swept


class ResultsTelemetry:
    """Counters of what is saved and swept, gauges of the cache."""

    def __init__(self, registry: CollectorRegistry, cache: PayloadCache) -> None:
        prefix = "klinecast_results"
        self._saved = Counter(f"{prefix}_saved", "Results stored", registry=registry)
        self._saved_bytes = Counter(f"{prefix}_saved_bytes", "Bytes of results stored", registry=registry)
        self._swept = Counter(f"{prefix}_swept", "Expired results deleted", registry=registry)
        self._swept_bytes = Counter(f"{prefix}_swept_bytes", "Bytes of expired results deleted", registry=registry)
        gauges = {
            "cache_bytes": ("Bytes of payloads in memory", lambda: cache.size_bytes),
            "cache_hits": ("Chunks read from memory", lambda: cache.hits),
            "cache_misses": ("Chunks read from the database", lambda: cache.misses),
        }
        for name, (text, read) in gauges.items():
            Gauge(f"{prefix}_{name}", text, registry=registry).set_function(read)

    def saved(self, stored_bytes: int) -> None:
        """Count a stored result."""
        self._saved.inc()
        self._saved_bytes.inc(stored_bytes)

    def swept(self, swept: Swept) -> None:
        """Count what a batch of a sweep deleted."""
        self._swept.inc(swept.results)
        self._swept_bytes.inc(swept.bytes)
