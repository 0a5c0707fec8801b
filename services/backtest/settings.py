"""Settings of the backtest service and of its workers; every name is an environment variable KLINECAST_<NAME>."""

from __future__ import annotations

import os

from pydantic import Field

from services.runtime.config import ProcessSettings, RuntimeSettings


class BacktestSettings(RuntimeSettings):
    """How the service runs."""

    listen: str = "127.0.0.1:50052"
    metrics_listen: str = "127.0.0.1:9102"
    data_target: str = "localhost:50051"
    """Where the data service is."""
    results_target: str = "localhost:50053"
    """Where the results service is."""
    workers: int = Field(default=os.cpu_count() or 1, ge=0, le=256)
    """Worker processes of this machine; 0: none, only serve."""
    max_running: int = Field(default=64, ge=1)
    """Backtests that run at once over all replicas."""
    max_queued: int = Field(default=100_000, ge=1)
    """Backtests that may wait; more are refused."""
    watch_heartbeat_s: float = Field(default=5.0, gt=0)
    """A watcher hears at least this often."""
    backtest_retention_s: float = Field(default=30 * 86_400.0, gt=0)
    """How long terminal backtests and their events are kept."""
    worker_memory_mb: int = Field(default=4096, ge=256)
    """Private memory a worker may use."""


class WorkerSettings(ProcessSettings):
    """How a worker runs; it inherits the environment of its service."""

    data_target: str = "localhost:50051"
    """Where the data service is."""
    results_target: str = "localhost:50053"
    """Where the results service is."""
    worker_memory_mb: int = Field(default=4096, ge=256)
    """Private memory it may use."""
