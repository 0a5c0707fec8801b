"""Which results are kept, listed and compared: what the SDK takes and returns about many of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from klinecast.interval import Interval
from klinecast.models import Result
from klinecast.types import MarketType


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long results are kept, and how many; None: the service's, or no limit."""

    default_ttl_s: float | None = None
    min_ttl_s: float | None = None
    max_ttl_s: float | None = None
    max_results: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RetentionUsage:
    """What a tenant keeps; what has expired does not count."""

    results: int
    bytes: int
    pinned_results: int
    pinned_bytes: int


@dataclass(frozen=True, slots=True)
class RetentionPreview:
    """What would go under a policy."""

    losses: Mapping[str, tuple[int, int]]
    """Reason (EXPIRED, MAX_RESULTS, MAX_BYTES) to results and bytes."""
    result_ids: tuple[str, ...]
    """The first 100 that would go."""
    kept: RetentionUsage


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A result that went."""

    result_id: str
    strategy: str
    reason: str
    """EXPIRED, MAX_RESULTS, MAX_BYTES or DELETED."""
    stored_bytes: int
    create_time_ms: int
    delete_time_ms: int


@dataclass(frozen=True, slots=True)
class ResultComparison:
    """Results side by side."""

    results: tuple[Result, ...]
    statistics: Mapping[str, tuple[float | None, ...]]
    """One value a result, None where it is undefined."""
    differences: Mapping[str, tuple[str, ...]]
    """Path in config or manifest to one text a result: JSON, empty where it is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """Which results to list, and in which order; empty and None are no filter."""

    strategy: str = ""
    venue: str = ""
    market_type: MarketType | None = None
    symbol: str = ""
    interval: Interval | None = None
    """With venue, market type and symbol: of one series that was read."""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_from_ms: int | None = None
    created_before_ms: int | None = None
    range_from_ms: int | None = None
    """Only backtests whose range ends after this."""
    range_before_ms: int | None = None
    """Only backtests whose range starts before this."""
    statistics: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Name to at least and at most; a result in which it is undefined is outside."""
    order_by: str = ""
    """A statistic, or initial_cash, final_equity, kline_count, trade_rows, fill_rows, ambiguous_klines.

    Empty: create_time."""
    ascending: bool = False
