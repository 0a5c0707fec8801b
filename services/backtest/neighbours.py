"""The data and results services as this one asks them: in whose name, and what of their errors is for callers."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from klinecast.client import Client, Indicator, IndicatorKey, LoadedIndicators, LoadedKlines
from klinecast.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    KlinecastError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from klinecast.interval import Interval
from klinecast.models import RangeSummary
from klinecast.series import SeriesKey
from services.backtest.jobs import JobKey
from services.backtest.ranges import Range
from services.runtime.logs import get_logger

THREADS = 32
"""Calls under way at once, of all requests."""
_ABOUT_THE_REQUEST = (Aborted, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted)
_LOG = get_logger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


@contextmanager
def asking(service: str) -> Iterator[None]:
    """Let through what a service says of the request; of our own trouble with it callers learn that it is away.

    The texts of that hold addresses, paths and whom we call as, and blame a credential that is not the caller's.
    """
    try:
        yield
    except KlinecastError as error:
        is_ours = any(one.field.startswith("security.") for one in error.violations)
        if isinstance(error, _ABOUT_THE_REQUEST) and not is_ours:
            raise
        if not isinstance(error, Unavailable | DeadlineExceeded):
            _LOG.warning("neighbour_failed", neighbour=service, error=type(error).__name__, problem=str(error))
        if isinstance(error, Internal):
            raise Internal(f"an unexpected fault of the {service} service") from None
        raise Unavailable(f"the {service} service is unavailable", retry_after_s=1.0) from None


@dataclass(frozen=True, slots=True)
class Market:
    """The data service asked in the name of a tenant, so that its limits hold one tenant's calls against that one."""

    client: Client
    tenant: str

    def load_klines(self, series: SeriesKey, start_ms: int, end_ms: int) -> LoadedKlines:
        """Read the klines of [start, end)."""
        with asking("data"):
            return self.client.load_klines(series, start_ms, end_ms, tenant=self.tenant)

    def load_indicators(
        self, series: SeriesKey | IndicatorKey, indicators: Sequence[Indicator], start_ms: int, end_ms: int
    ) -> LoadedIndicators:
        """Read the indicators of [start, end)."""
        with asking("data"):
            return self.client.load_indicators(series, indicators, start_ms, end_ms, tenant=self.tenant)

    def get_range(
        self,
        series: SeriesKey,
        start_ms: int,
        end_ms: int,
        *,
        source_interval: Interval | None = None,
        indicators: Sequence[str] = (),
    ) -> RangeSummary:
        """Tell what load_klines of [start, end) would read, and of stored indicators."""
        with asking("data"):
            return self.client.get_range(
                series, start_ms, end_ms, source_interval=source_interval, indicators=indicators, tenant=self.tenant
            )


class Threads:
    """Threads for blocking calls of one kind, so that they wait for none of another."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, name)

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Make a call; it sees the context of the caller, as its trace."""
        bound = partial(contextvars.copy_context().run, partial(call, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._pool, bound)

    def close(self) -> None:
        """Begin no call any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Neighbours:
    """What the service asks of its neighbours."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._for_requests, self._for_expiry = Threads("neighbours"), Threads("expiry")

    def close(self) -> None:
        """Ask nothing any more."""
        self._for_requests.close()
        self._for_expiry.close()

    async def get_range(self, tenant: str, wanted: Range) -> RangeSummary:
        """Return what a range holds now."""
        series, start_ms, end_ms, indicators = wanted
        market = Market(self._client, tenant)
        return await self._for_requests.run(market.get_range, series, start_ms, end_ms, indicators=indicators)

    async def keep_result(self, key: JobKey, ttl_s: float | None) -> None:
        """Let a result expire no sooner than so long from now, by default the service's; raises NotFound."""

        def keep() -> None:
            with asking("results"):
                self._client.update_retention(key.backtest_id, ttl_s=ttl_s, extend_only=True, tenant=key.tenant)

        await self._for_requests.run(keep)

    async def ttl_bounds(self, tenant: str) -> tuple[float, float] | None:
        """Return between what a tenant's TTLs must lie, in seconds; None when the results service is away."""
        try:
            with asking("results"):
                policy = await self._for_requests.run(self._client.get_retention_policy, tenant=tenant)
        except Unavailable:
            return None
        return policy.min_ttl_s or 0.0, policy.max_ttl_s or math.inf

    async def check_results(self, tenant: str, result_ids: Sequence[str]) -> Sequence[str]:
        """Return those of a tenant's results that are kept."""
        with asking("results"):
            return await self._for_expiry.run(self._client.check_results, result_ids, tenant=tenant)

    def delete_result(self, key: JobKey, fence: int) -> bool:
        """Delete what attempts may have saved; False when the results service is away. Blocks."""
        try:
            self._client.delete_result(key.backtest_id, tombstone_fence=fence, tenant=key.tenant)
        except KlinecastError:
            return False
        return True
