"""Names that the manifests use before the services know them; the only place that says so. Each leaves when it exists."""

from __future__ import annotations

ALLOWED_SOON = frozenset(
    {
        "KLINECAST_TLS__CERTIFICATE_FILE",
        "KLINECAST_TLS__KEY_FILE",
        "KLINECAST_TLS__CLIENT_CA_FILE",
        "KLINECAST_HEALTH_LISTEN",
        "KLINECAST_AUTH__KEYS_FILE",
        "KLINECAST_CLIENT__CA_FILE",
        "KLINECAST_CLIENT__TOKEN_FILE",
    }
)
"""Settings."""

METRICS_SOON = frozenset(
    {
        "klinecast_backtest_queue_age_seconds",
        "klinecast_backtest_worker_memory_bytes",
        "klinecast_backtest_worker_cpu_seconds_total",
        *(
            f"klinecast_{service}_database_connections{suffix}"
            for service in ("data", "backtest", "results")
            for suffix in ("", "_limit")
        ),
    }
)
"""Metrics."""
