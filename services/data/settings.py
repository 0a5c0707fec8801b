"""Settings of the data service; every name is an environment variable KLINECAST_<NAME>."""

from __future__ import annotations

from pydantic import Field

from services.runtime.config import RuntimeSettings


class DataSettings(RuntimeSettings):
    """How the service runs."""

    listen: str = "127.0.0.1:50051"
    metrics_listen: str = "127.0.0.1:9101"
    cache_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Memory for blocks of klines that were read before; 0 keeps none."""
