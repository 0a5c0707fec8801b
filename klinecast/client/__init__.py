"""The SDK: a synchronous client of the three services. Threads may share one; never make one before a fork."""

from __future__ import annotations

from klinecast.backtest_config import BacktestConfig
from klinecast.client._client import Client
from klinecast.client._security import Security
from klinecast.errors import KlinecastError
from klinecast.indicators import Indicator, IndicatorKey
from klinecast.interval import Interval
from klinecast.models import (
    Backtest,
    BacktestError,
    BacktestEvent,
    CheckReport,
    Finding,
    FindingCount,
    FindingKind,
    Gap,
    IndicatorBatch,
    IndicatorRange,
    IndicatorSeriesSummary,
    IngestSummary,
    KlineBatch,
    LoadedIndicators,
    LoadedKlines,
    RangeSummary,
    RejectedKline,
    Result,
    SeriesResult,
    SeriesSummary,
    Strategy,
)
from klinecast.retention import (
    AuditRecord,
    ResultComparison,
    ResultFilter,
    RetentionPolicy,
    RetentionPreview,
    RetentionUsage,
)
from klinecast.series import SeriesKey

__all__ = [
    "AuditRecord",
    "Backtest",
    "BacktestConfig",
    "BacktestError",
    "BacktestEvent",
    "CheckReport",
    "Client",
    "Finding",
    "FindingCount",
    "FindingKind",
    "Gap",
    "Indicator",
    "IndicatorBatch",
    "IndicatorKey",
    "IndicatorRange",
    "IndicatorSeriesSummary",
    "IngestSummary",
    "Interval",
    "KlineBatch",
    "KlinecastError",
    "LoadedIndicators",
    "LoadedKlines",
    "RangeSummary",
    "RejectedKline",
    "Result",
    "ResultComparison",
    "ResultFilter",
    "RetentionPolicy",
    "RetentionPreview",
    "RetentionUsage",
    "Security",
    "SeriesKey",
    "SeriesResult",
    "SeriesSummary",
    "Strategy",
]
