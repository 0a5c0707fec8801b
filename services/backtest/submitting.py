"""Checks a request before it is queued: everything that can be known to be wrong is said at once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from klinecast.backtest_config import BacktestConfig, ParamValue
from klinecast.convert.violations import Violations
from klinecast.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    QuotaViolation,
    ResourceExhausted,
    Unavailable,
)
from klinecast.series import SeriesKey
from klinecast.types import Account, MarginMode, MarketType
from services.backtest.jobs import Job, JobKey
from services.backtest.queueing import Created, NewJob, QueueStore, Refused
from services.backtest.ranges import AskRange, Ranges
from services.backtest.sharing import Limits
from services.backtest.strategies import InvalidParams, UnknownStrategy
from services.runtime.ids import new_id

_REQUEST_ID_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Admission:
    """How much may be asked for."""

    max_queued: int
    """Backtests that may wait, of all tenants."""
    max_klines: int
    """Klines a backtest may read."""
    limits_of: Callable[[str], Limits]
    """What a tenant may take."""


class Strategies(Protocol):
    """What a request is checked against."""

    def check(self, name: str, params: Mapping[str, ParamValue]) -> None:
        """Raise UnknownStrategy or InvalidParams."""

    def is_event_driven(self, name: str) -> bool:
        """Tell whether a strategy decides kline after kline."""

    def reuse_key(self, config: BacktestConfig) -> bytes | None:
        """Return what equal requests to the same code have in common; None where that cannot be told."""


class Results(Protocol):
    """Where results of equal backtests are found."""

    async def find(self, ranges: Ranges, key: bytes, ttl_s: float | None, looked_at: list[str]) -> str | None:
        """Return the result of an equal backtest, kept for as long as is asked; note what was looked at."""

    def expect(self) -> None:
        """Take care of a follower that was just stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Checks and stores requests."""

    queue: QueueStore
    strategies: Strategies
    results: Results
    get_range: AskRange
    ttl_bounds: Callable[[str], Awaitable[tuple[float, float] | None]]
    """Asks the results service between what a tenant's TTLs must lie, in seconds; None when it is away."""
    vetted: Callable[[str], Awaitable[None]]
    """Waits until a strategy has been looked at."""
    admission: Admission

    async def submit(
        self,
        tenant: str,
        request_id: str,
        config: BacktestConfig | None,
        wire: bytes,
        found: Violations,
        traceparent: str,
    ) -> Job:
        """Check a request and queue it; the same request_id gives the same backtest."""
        found.check(
            len(request_id) <= _REQUEST_ID_CHARACTERS and request_id.isprintable(),
            "request_id",
            f"must be up to {_REQUEST_ID_CHARACTERS} printable characters",
        )
        if config is not None:
            await self.vetted(config.strategy)
            self._check_strategy(config, found)
            await self._check_ttl(tenant, config.result_ttl_s, found)
        found.raise_if_any()
        if config is None:
            raise InvalidArgument.of(FieldViolation("config", "is required"))
        try:
            return await self._admit(tenant, request_id, config, wire, traceparent)
        except (FailedPrecondition, NotFound, ResourceExhausted, Unavailable):
            known = await self.queue.find_request(tenant, request_id) if request_id else None
            if known is None:
                raise
            return _same_request(known, request_id, wire)  # what was taken once stays taken

    async def _admit(self, tenant: str, request_id: str, config: BacktestConfig, wire: bytes, traceparent: str) -> Job:
        """Store a request that nothing is wrong with, unless it is too much."""
        ranges, read = Ranges(self.get_range, tenant), _read_by(config)
        held = await ranges.count_klines(read, config.start_ms, config.end_ms)
        klines = held + len(read) * config.warmup_klines
        self._check_cost(tenant, klines)
        job = NewJob(
            key=JobKey(tenant, new_id()),
            config=wire,
            request_id=request_id or None,
            request_hash=hashlib.sha256(wire).digest(),
            strategy=config.strategy,
            priority=config.priority,
            deadline_s=config.deadline_s,
            traceparent=traceparent,
            klines=klines,
            reuse_key=self.strategies.reuse_key(config) if config.allow_reuse else None,
        )
        return _same_request(await self._store(job, config.result_ttl_s, ranges), request_id, wire)

    async def _store(self, job: NewJob, ttl_s: float | None, ranges: Ranges) -> Created:
        """Store a job with the result of an equal one, or to wait for one, or to be computed."""
        looked_at: list[str] = []
        limits = self.admission.limits_of(job.key.tenant)
        while True:
            if job.reuse_key is not None:
                result_id = await self.results.find(ranges, job.reuse_key, ttl_s, looked_at)
                if result_id is not None:
                    return await self.queue.create_reused(job, result_id)
            created = await self.queue.create(job, limits, self.admission.max_queued, looked_at)
            if isinstance(created, Refused):
                raise _over_quota(created)
            if created is not None:
                if created.follows:
                    self.results.expect()
                return created  # else an equal one has succeeded meanwhile

    async def _check_ttl(self, tenant: str, ttl_s: float | None, found: Violations) -> None:
        bounds = await self.ttl_bounds(tenant) if ttl_s is not None else None
        if ttl_s is not None and bounds is not None:
            lower, upper = bounds
            text = f"must be {lower:g} s .. {upper:g} s, the bounds of the retention policy"
            found.check(lower <= ttl_s <= upper, "config.result_ttl", text)

    def _check_strategy(self, config: BacktestConfig, found: Violations) -> None:
        try:
            self.strategies.check(config.strategy, config.params)
        except UnknownStrategy as error:
            violation = FieldViolation("config.strategy", str(error))
            raise InvalidArgument.of(violation, *found.found, reason="UNKNOWN_STRATEGY") from None
        except InvalidParams as error:
            for field, description in error.violations:
                found.add(f"config.params.{field}" if field else "config.params", description)
        if config.market_type is MarketType.INVERSE_PERPETUAL:
            found.add("config.series[0].market_type", "INVERSE_PERPETUAL cannot be backtested")
        if config.account is Account.SHARED and len(config.all_series) > 1:
            self._check_shared(config, found)

    def _check_shared(self, config: BacktestConfig, found: Violations) -> None:
        if not found and self.strategies.is_event_driven(config.strategy):
            found.add("config.account", f"{config.strategy} is event-driven: each series needs an account")
        if config.market_type is not MarketType.SPOT and config.execution.margin_mode is MarginMode.CROSS:
            found.add("config.execution.margin_mode", "CROSS needs an account of its own for each series")

    def _check_cost(self, tenant: str, klines: int) -> None:
        most = self.admission.max_klines
        if klines > most:
            text = f"a backtest reads at most {most:,} klines, this one would read {klines:,}"
            raise ResourceExhausted(text, quota=[QuotaViolation(tenant, text)])


def _over_quota(refused: Refused) -> ResourceExhausted:
    return ResourceExhausted(
        refused.description,
        quota=[QuotaViolation(refused.subject, refused.description)],
        retry_after_s=refused.retry_after_s,
    )


def _same_request(created: Created, request_id: str, wire: bytes) -> Job:
    if created.request_hash != hashlib.sha256(wire).digest():
        raise AlreadyExists(f"request_id {request_id} was used for another request")
    return created.job


def _read_by(config: BacktestConfig) -> list[SeriesKey]:
    """Return the series a backtest reads, or may read."""
    finer = config.finer_interval
    return [
        *config.all_series,
        *(dataclasses.replace(one, interval=finer) for one in config.all_series if finer is not None),
    ]
