"""Settings of the results service; every name is an environment variable KLINECAST_<NAME>."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from services.results.retention import LONGEST_TTL_S, Policy
from services.runtime.config import RuntimeSettings


class ResultsSettings(RuntimeSettings):
    """How the service runs."""

    listen: str = "127.0.0.1:50053"
    metrics_listen: str = "127.0.0.1:9103"
    result_default_ttl_s: float = Field(default=30 * 86_400.0, ge=1)
    """How long a result is kept that was saved without a TTL."""
    result_min_ttl_s: float = Field(default=1.0, ge=1)
    """Shortest TTL a request or a tenant's policy may ask for."""
    result_max_ttl_s: float = Field(default=LONGEST_TTL_S, ge=1, le=LONGEST_TTL_S)
    """Longest TTL a request or a tenant's policy may ask for."""
    result_max_count: int | None = Field(default=None, ge=1)
    """Most results a tenant keeps; the least recently read go first. A tenant's policy may say less."""
    result_max_bytes: int | None = Field(default=None, ge=1)
    """Most bytes a tenant keeps; the least recently read go first. A tenant's policy may say less."""
    result_audit_keep_s: float = Field(default=90 * 86_400.0, gt=0)
    """How long the audit remembers what went."""
    result_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Memory for payloads of results that are read often; 0: none."""
    result_cache_ttl_s: float = Field(default=300.0, gt=0)
    """How long a payload stays in memory unread."""
    sweep_every_s: float = Field(default=1.0, gt=0)
    """How often expired results are deleted."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if not self.result_min_ttl_s <= self.result_default_ttl_s <= self.result_max_ttl_s:
            raise ValueError("result_default_ttl_s must lie between result_min_ttl_s and result_max_ttl_s")
        return self

    @property
    def policy(self) -> Policy:
        """What holds where a tenant set nothing."""
        return Policy(
            default_ttl_s=self.result_default_ttl_s,
            min_ttl_s=self.result_min_ttl_s,
            max_ttl_s=self.result_max_ttl_s,
            max_results=self.result_max_count,
            max_bytes=self.result_max_bytes,
        )
