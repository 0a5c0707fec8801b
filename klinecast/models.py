"""What the SDK returns: frozen values, no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from klinecast import frames
from klinecast.columns import Column
from klinecast.indicators import IndicatorKey
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import KlineColumns

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class KlineBatch:
    """One batch of a stream of klines."""

    columns: Mapping[str, Column]
    """Arrays of one length by column name, open_time_ms among them."""
    next_open_time_ms: int
    """Where to resume after this batch."""
    klines_sent: int
    """Klines of the range up to here."""
    klines_total: int
    """Klines of the whole range."""
    revision: int
    """Revision of the series when the stream began."""

    def __len__(self) -> int:
        return len(self.columns["open_time_ms"])

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas DataFrame indexed by open_time in UTC."""
        return frames.to_pandas(self.columns)

    def to_polars(self) -> pl.DataFrame:
        """Return a polars DataFrame whose first column is open_time in UTC."""
        return frames.to_polars(self.columns)

    def to_arrow(self) -> pa.Table:
        """Return an Arrow Table whose first column is open_time in UTC."""
        return frames.to_arrow(self.columns)


@dataclass(frozen=True, slots=True)
class LoadedKlines:
    """A range of klines in memory."""

    klines: KlineColumns
    revision: int
    """Revision of the series they are of."""
    source_interval: Interval
    """Interval of the stored klines that they are, or were built from."""

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas DataFrame indexed by open_time in UTC."""
        return frames.to_pandas(self.columns)

    def to_polars(self) -> pl.DataFrame:
        """Return a polars DataFrame whose first column is open_time in UTC."""
        return frames.to_polars(self.columns)

    def to_arrow(self) -> pa.Table:
        """Return an Arrow Table whose first column is open_time in UTC."""
        return frames.to_arrow(self.columns)

    @property
    def columns(self) -> Mapping[str, Column]:
        """Arrays of one length by column name, open_time_ms among them."""
        klines = self.klines
        return {name: getattr(klines, name) for name in ("open_time_ms", "open", "high", "low", "close", "volume")}


@dataclass(frozen=True, slots=True)
class IndicatorRange:
    """What is held of a stored indicator series before an instant."""

    value_count: int
    revision: int
    rewrite_revision: int
    """Revision of its last rewrite, anywhere in it; 0 for none."""


@dataclass(frozen=True, slots=True)
class RangeSummary:
    """What a range of a series holds."""

    kline_count: int
    revision: int
    rewrite_revision: int
    """Revision of the last rewrite in the range or near it, 0 for none; appends do not move it."""
    source_interval: Interval
    """Interval of the stored klines that a stream would read."""
    indicators: Mapping[str, IndicatorRange]
    """Of the stored indicators asked for, those that are there."""


@dataclass(frozen=True, slots=True)
class RejectedKline:
    """A kline that an ingest left out."""

    index: int
    """Among all klines sent, from 0."""
    field: str
    reason: str
    open_time_ms: int


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What an ingest did."""

    inserted: int
    updated: int
    unchanged: int
    rejected: int
    revision: int
    rejections: tuple[RejectedKline, ...] = ()
    """The first 100."""


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """A stored series and what it holds."""

    series: SeriesKey
    first_open_time_ms: int | None
    last_open_time_ms: int | None
    kline_count: int
    revision: int
    gap_count: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A maximal run of missing klines."""

    first_open_time_ms: int
    last_open_time_ms: int
    missing_count: int


@dataclass(frozen=True, slots=True)
class BacktestError:
    """Why a backtest FAILED."""

    reason: str
    message: str
    kline_index: int | None = None
    detail: str = ""
    """For the author of the strategy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """A backtest as it stood when it was read."""

    backtest_id: str
    state: str
    """QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED."""
    attempt: int
    phase: str | None
    fraction_done: float
    klines_done: int
    klines_total: int
    timings_s: Mapping[str, float]
    result_id: str | None
    result_expired: bool | None
    """Whether it has gone since; None until SUCCEEDED, and while the results service is away."""
    reused: bool
    error: BacktestError | None
    create_time_ms: int
    start_time_ms: int | None
    end_time_ms: int | None
    last_sequence: int
    request_id: str
    strategy: str
    series: str
    """For people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestEvent:
    """Something that happened to a backtest."""

    backtest_id: str
    sequence: int
    """From 1, contiguous."""
    state: str
    attempt: int
    phase: str | None
    fraction_done: float
    klines_done: int
    klines_total: int
    equity: float | None = None
    drawdown: float | None = None
    eta_s: float | None = None
    """To the end of the phase, at its rate so far."""
    queue_position: int | None = None
    result_id: str | None = None
    reused: bool = False
    error: BacktestError | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        """Whether no event follows."""
        return self.state in ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy the service can run."""

    name: str
    version: str
    description: str
    params_schema: Mapping[str, object]
    """JSON schema."""
    warmup: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesResult:
    """What one of several series came to."""

    series: SeriesKey
    statistics: Mapping[str, float]
    klines: int
    initial_cash: float | None
    """Its share of the start money; None where the account is shared."""
    final_equity: float | None
    """None where the account is shared."""
    open_position: Mapping[str, float] | None
    """quantity, entry_price, profit; None when flat."""
    pending_target: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The header of a result."""

    result_id: str
    strategy: str
    strategy_version: str
    params: Mapping[str, object]
    series: str
    """For people."""
    start_ms: int
    end_ms: int
    labels: Mapping[str, str]
    klines: int
    initial_cash: float
    final_equity: float
    open_position: Mapping[str, float] | None
    """quantity, entry_price, profit; None when flat."""
    statistics: Mapping[str, float]
    execution: Mapping[str, object]
    pending_target: float | None
    ambiguous_klines: int
    resolved_klines: int
    """Klines in which finer klines told whether stop or target came first."""
    total_return_bounds: tuple[float, float]
    """If every ambiguous kline had hit the stop first, or the target."""
    gap_count: int
    missing_count: int
    gaps: tuple[Gap, ...]
    """The first 100 gaps that were crossed, of each series."""
    series_results: tuple[SeriesResult, ...]
    """Each series where there are several, in the order of the config."""
    source_interval: Interval | None
    """Interval of the stored klines that were read, or that those read were built from."""
    klines_read: int
    """Of a backtest that went on from a shorter one: the new ones, and those its strategy looks back at."""
    continued_from: str
    """Result of that shorter one; empty where there was none."""
    trade_rows: int
    fill_rows: int
    equity_rows: int
    create_time_ms: int
    expire_time_ms: int | None
    """None while pinned."""
    pinned: bool
    stored_bytes: int
    last_read_time_ms: int
    """Exact to a minute."""


class FindingKind(StrEnum):
    """What may be wrong with a stretch of a series."""

    GAP = "GAP"
    ZERO_VOLUME = "ZERO_VOLUME"
    JUMP = "JUMP"
    REWRITTEN = "REWRITTEN"
    OFF_GRID = "OFF_GRID"
    DUPLICATE = "DUPLICATE"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something doubtful in a series."""

    kind: FindingKind
    first_open_time_ms: int
    last_open_time_ms: int
    kline_count: int
    """Klines missing, without volume, rewritten or refused; 1 for a jump."""
    change: float | None = None
    """Of a jump: close / previous close - 1."""
    reason: str = ""
    """Of a refusal: column and reason."""


@dataclass(frozen=True, slots=True)
class FindingCount:
    """How many findings there are of a kind."""

    findings: int
    klines: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of a series found."""

    kline_count: int
    """Klines looked at."""
    revision: int
    findings: tuple[Finding, ...]
    """By kind, oldest first, cut at the number asked for."""
    counts: Mapping[FindingKind, FindingCount]
    """All of them, counted; kinds without any are left out."""


@dataclass(frozen=True, slots=True)
class IndicatorBatch:
    """One batch of a stream of indicators."""

    open_time_ms: Column
    columns: Mapping[str, Column]
    """A column for each output by its label."""
    next_open_time_ms: int
    """Where to resume after this batch."""
    rows_sent: int
    rows_total: int
    revision: int | None
    """Revision of the series of klines; None when none were read."""
    indicator_revisions: Mapping[str, int]
    """Revision of each stored series by its name."""

    def __len__(self) -> int:
        return len(self.open_time_ms)


@dataclass(frozen=True, slots=True)
class LoadedIndicators:
    """Indicators of a range in memory."""

    open_time_ms: Column
    columns: Mapping[str, Column]
    revision: int | None
    indicator_revisions: Mapping[str, int]
    """Revision of each stored series by its name."""


@dataclass(frozen=True, slots=True)
class IndicatorSeriesSummary:
    """A stored indicator series and what it holds."""

    series: IndicatorKey
    first_open_time_ms: int | None
    last_open_time_ms: int | None
    value_count: int
    revision: int
