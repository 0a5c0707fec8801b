"""Settings of the backtest service and of its workers; every name is an environment variable KLINECAST_<NAME>."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from services.backtest.jobs import State
from services.backtest.sharing import Limits
from services.runtime.config import (
    ClientSettings,
    LimitSettings,
    ProcessSettings,
    RuntimeSettings,
    SecretUrl,
    Section,
)


class TenantSettings(Section):
    """What a tenant may take; a number that is not set is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, gt=0)
    """Its share, beside that of other tenants whose backtests of the same priority wait."""
    max_running: int | None = Field(default=None, ge=1)
    """Backtests that run at once."""
    max_queued: int | None = Field(default=None, ge=1)
    """Backtests that wait."""
    daily_klines: int | None = Field(default=None, ge=1)
    """Klines its backtests of a UTC day may read."""


class WatchLimits(LimitSettings):
    """Watches are small, and one tenant has many."""

    tenant_max_streams: int | None = Field(default=2000, ge=1)


class BacktestSettings(RuntimeSettings):
    """How the service runs."""

    listen: str = "127.0.0.1:50052"
    metrics_listen: str = "127.0.0.1:9102"
    limits: WatchLimits = WatchLimits()
    data_target: str = "localhost:50051"
    """Where the data service is."""
    results_target: str = "localhost:50053"
    """Where the results service is."""
    client: ClientSettings = ClientSettings()
    executor: Literal["local", "celery"] = "local"
    """Who runs backtests: workers of this process, or those that listen at the broker."""
    broker_url: SecretUrl | None = None
    """Valkey or Redis, redis://host:port/0; for executor celery."""
    workers: int = Field(default=os.cpu_count() or 1, ge=0, le=256)
    """Worker processes of this machine, for executor local; 0: none, only serve."""
    max_running: int = Field(default=64, ge=1)
    """Backtests that run at once over all replicas."""
    max_queued: int = Field(default=100_000, ge=1)
    """Backtests that may wait; more are refused."""
    max_klines: int = Field(default=200_000_000, ge=1)
    """Klines a backtest may read; one that would read more is refused."""
    tenant: TenantSettings = TenantSettings()
    """What every tenant may take."""
    tenants: dict[str, TenantSettings] = Field(default_factory=dict)
    """JSON: tenant -> what differs for it, for example {"acme": {"weight": 3}}."""
    watch_heartbeat_s: float = Field(default=5.0, gt=0)
    """A watcher hears at least this often."""
    backtest_retention_s: float = Field(default=30 * 86_400.0, gt=0)
    """How long terminal backtests and their events are kept."""
    failed_retention_s: float | None = Field(default=None, gt=0)
    """Same for those that FAILED; default: backtest_retention_s."""
    cancelled_retention_s: float | None = Field(default=None, gt=0)
    """Same for those that were CANCELLED; default: backtest_retention_s."""
    worker_memory_mb: int = Field(default=4096, ge=256)
    """Private memory a worker may use."""

    @model_validator(mode="after")
    def _require_broker(self) -> Self:
        if self.executor == "celery" and self.broker_url is None:
            raise ValueError("KLINECAST_BROKER_URL is required where KLINECAST_EXECUTOR is celery")
        if self.executor == "celery" and importlib.util.find_spec("celery") is None:
            raise ValueError("executor celery needs the extra `celery` of this distribution")
        return self

    @property
    def retention_s(self) -> dict[State, float]:
        """How long backtests are kept, by the state they ended in."""
        return {
            State.SUCCEEDED: self.backtest_retention_s,
            State.FAILED: self.failed_retention_s or self.backtest_retention_s,
            State.CANCELLED: self.cancelled_retention_s or self.backtest_retention_s,
        }

    def limits_of(self, tenant: str) -> Limits:
        """Return what a tenant may take: its own numbers, everyone's where it has none."""
        own = self.tenants.get(tenant)
        both = self.tenant.model_dump() | (own.model_dump(exclude_unset=True) if own is not None else {})
        return Limits(**both)


class WorkerSettings(ProcessSettings):
    """How workers run: those of a service, whose environment they inherit, and those that listen at the broker."""

    metrics_listen: str = "127.0.0.1:9104"
    broker_url: SecretUrl | None = None
    """Valkey or Redis; required where workers have no service."""
    workers: int = Field(default=os.cpu_count() or 1, ge=1, le=256)
    """Worker processes."""

    data_target: str = "localhost:50051"
    """Where the data service is."""
    results_target: str = "localhost:50053"
    """Where the results service is."""
    client: ClientSettings = ClientSettings()
    worker_memory_mb: int = Field(default=4096, ge=256)
    """Private memory it may use."""
