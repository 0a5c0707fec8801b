"""What to backtest, as the callers of the SDK say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import Account, ExecutionModel, MarketType, StatisticsConvention

ParamValue = float | int | str | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestConfig:
    """Config of a backtest; every default is the contract's."""

    strategy: str
    """Name of a registered strategy."""
    series: SeriesKey | Sequence[SeriesKey]
    """Series to trade: one, or up to 100 different ones of one interval and market type."""
    start_ms: int
    """First instant, inclusive, epoch milliseconds."""
    end_ms: int
    """Last instant, exclusive, epoch milliseconds."""
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    """Params of the strategy by name."""
    mode: str | None = None
    """long_only, long_short, or None: by market type."""
    warmup_klines: int = 0
    """Klines before start that the strategy sees, 0..100,000."""
    initial_cash: float = 10_000.0
    """Start money, quote units, above 0."""
    execution: ExecutionModel = field(default_factory=ExecutionModel)
    """How orders become fills."""
    statistics: StatisticsConvention = field(default_factory=StatisticsConvention)
    """Conventions of the statistics."""
    priority: int = 4
    """0..9, 9 first."""
    result_ttl_s: float | None = None
    """How long the result is kept, seconds; None: the policy of the results service."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The caller's own labels."""
    keep_equity: bool = True
    """Whether the result keeps equity per kline."""
    keep_trades: bool = True
    """Whether the result keeps trades and fills."""
    deadline_s: float = 3600.0
    """Longest running time over all attempts, seconds, above 0 and at most 24 h."""
    allow_reuse: bool = True
    """Whether a stored result of an equal request may be taken."""
    account: Account = Account.SEPARATE
    """Whose money several series trade with."""
    finer_interval: Interval | None = None
    """Interval of klines that decide where a stop and a target are both touched; None: the intrabar policy does."""

    @property
    def all_series(self) -> tuple[SeriesKey, ...]:
        """The series to trade, one or several."""
        return (self.series,) if isinstance(self.series, SeriesKey) else tuple(self.series)

    @property
    def interval(self) -> Interval:
        """Interval of the series."""
        return self.all_series[0].interval

    @property
    def market_type(self) -> MarketType:
        """Market type of the series."""
        return self.all_series[0].market_type
