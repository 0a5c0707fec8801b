"""The metrics of the data service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from services.data.ingest import Ingest


class DataTelemetry:
    """Counters of klines that came and went, and of the cache."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "klinecast_data"
        self._streamed = Counter(f"{prefix}_klines_streamed", "Klines sent to readers", registry=registry)
        self._ingested = Counter(f"{prefix}_klines_ingested", "Klines received", ["outcome"], registry=registry)
        self._hits = Counter(f"{prefix}_cache_hits", "Blocks found in memory", registry=registry)
        self._misses = Counter(f"{prefix}_cache_misses", "Blocks read from the database", registry=registry)
        for outcome in ("inserted", "updated", "unchanged", "rejected"):
            self._ingested.labels(outcome)

    def observe_streamed(self, klines: int) -> None:
        """Count a message."""
        self._streamed.inc(klines)

    def observe_ingest(self, ingest: Ingest) -> None:
        """Count what an ingest stored, whether or not it reached its end."""
        self._ingested.labels("inserted").inc(ingest.inserted)
        self._ingested.labels("updated").inc(ingest.updated)
        self._ingested.labels("unchanged").inc(ingest.unchanged)
        self._ingested.labels("rejected").inc(ingest.rejected)

    def observe_cache(self, *, hit: bool) -> None:
        """Count one block."""
        (self._hits if hit else self._misses).inc()
