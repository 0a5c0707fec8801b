"""Settings of the results service; every name is an environment variable KLINECAST_<NAME>."""

from __future__ import annotations

from pydantic import Field

from services.runtime.config import RuntimeSettings


class ResultsSettings(RuntimeSettings):
    """How the service runs."""

    listen: str = "127.0.0.1:50053"
    metrics_listen: str = "127.0.0.1:9103"
    result_default_ttl_s: float = Field(default=30 * 86_400.0, ge=1)
    """How long a result is kept that was saved without a TTL."""
    result_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Memory for payloads of results that are read often; 0: none."""
    result_cache_ttl_s: float = Field(default=300.0, gt=0)
    """How long a payload stays in memory unread."""
    sweep_every_s: float = Field(default=1.0, gt=0)
    """How often expired results are deleted."""
