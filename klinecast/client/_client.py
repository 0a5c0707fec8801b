"""The one object callers hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Self

import grpc

from klinecast.api.results.v1 import result_pb2
from klinecast.backtest_config import BacktestConfig
from klinecast.client._backtest import BacktestCalls
from klinecast.client._calls import Caller
from klinecast.client._channel import open_channel
from klinecast.client._data import DataCalls, KlineRange
from klinecast.client._indicators import IndicatorCalls
from klinecast.client._results import Columns, ResultCalls
from klinecast.client._security import Security, TokenFile
from klinecast.columns import Column
from klinecast.indicators import Indicator, IndicatorKey
from klinecast.interval import Interval
from klinecast.models import (
    Backtest,
    BacktestEvent,
    CheckReport,
    Gap,
    IndicatorBatch,
    IndicatorSeriesSummary,
    IngestSummary,
    KlineBatch,
    LoadedIndicators,
    LoadedKlines,
    RangeSummary,
    Result,
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


class Client:
    """A client of the three services; connects when first used, raises klinecast.errors.

    Unary calls are tried again while a service is away, streams resume where they were cut, both for up to timeout_s.
    """

    def __init__(
        self,
        *,
        data: str = "localhost:50051",
        backtest: str = "localhost:50052",
        results: str = "localhost:50053",
        tenant: str | None = None,
        timeout_s: float = 30.0,
        security: Security | None = None,
        interceptors: Sequence[Any] = (),
    ) -> None:
        """Name the targets; `interceptors` are grpc client interceptors, for example OpenTelemetry's.

        `tenant` is for callers with role `service` and for services that ask for no token; else the token names it.
        """
        self._targets = {"data": data, "backtest": backtest, "results": results}
        self._interceptors = interceptors
        self._security = security or Security()
        self._caller = Caller(tenant, timeout_s, TokenFile(self._security.token_file))
        self._channels: list[grpc.Channel] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls under way end with Unavailable."""
        self._caller.close()
        for channel in self._channels:
            channel.close()

    def ingest_klines(
        self, series: SeriesKey, batches: Iterable[Mapping[str, Column]], *, on_invalid: str = "REJECT"
    ) -> IngestSummary:
        """Upsert klines given as columns by name; on_invalid is REJECT or FAIL. Sending them again changes nothing."""
        return self._data.ingest(series, batches, on_invalid)

    def stream_klines(
        self,
        series: SeriesKey,
        start_ms: int,
        end_ms: int,
        *,
        batch_size: int = 4096,
        columns: Sequence[str] | None = None,
        gap_policy: str = "SKIP",
        source_interval: Interval | None = None,
    ) -> Iterator[KlineBatch]:
        """Yield the klines of [start, end) in batches, through cuts without gap or repeat.

        An interval that is not stored is built from source_interval, or from the stored one that suits best. Raises
        Aborted (SERIES_CHANGED) when the range was rewritten meanwhile.
        """
        wanted = KlineRange(series, start_ms, end_ms, batch_size, columns, gap_policy, source_interval)
        return self._data.stream(wanted)

    def load_klines(
        self,
        series: SeriesKey,
        start_ms: int,
        end_ms: int,
        *,
        source_interval: Interval | None = None,
        tenant: str | None = None,
    ) -> LoadedKlines:
        """Read the klines of [start, end) into one set of columns, from the start again when they were rewritten."""
        return self._data.load(KlineRange(series, start_ms, end_ms, source_interval=source_interval, tenant=tenant))

    def get_range(
        self,
        series: SeriesKey,
        start_ms: int,
        end_ms: int,
        *,
        source_interval: Interval | None = None,
        indicators: Sequence[str] = (),
        tenant: str | None = None,
    ) -> RangeSummary:
        """Tell what load_klines of [start, end) would read, and of stored indicators of the market by name.

        Raises what load_klines raises: NotFound, or FailedPrecondition where there are no klines.
        """
        wanted = KlineRange(series, start_ms, end_ms, source_interval=source_interval, tenant=tenant)
        return self._data.get_range(wanted, indicators)

    def get_series(self, series: SeriesKey) -> SeriesSummary:
        """Get one series; raises NotFound."""
        return self._data.get_series(series)

    def list_series(self, *, venue: str = "", symbol: str = "") -> Iterator[SeriesSummary]:
        """Yield the stored series."""
        return self._data.list_series(venue, symbol)

    def list_gaps(self, series: SeriesKey, *, start_ms: int | None = None, end_ms: int | None = None) -> Iterator[Gap]:
        """Yield the runs of missing klines, oldest first."""
        return self._data.list_gaps(series, start_ms, end_ms)

    def check_series(
        self,
        series: SeriesKey,
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
        jump_bound: float = 0.2,
        zero_volume_klines: int = 10,
        max_findings: int = 100,
    ) -> CheckReport:
        """Report gaps, dead stretches, jumps, rewritten and refused klines of a stored series."""
        return self._data.check(
            series,
            start_ms,
            end_ms,
            jump_bound=jump_bound,
            zero_volume_klines=zero_volume_klines,
            max_findings=max_findings,
        )

    def delete_klines(self, series: SeriesKey, start_ms: int, end_ms: int) -> int:
        """Delete the klines of [start, end); return how many."""
        return self._data.delete(series, start_ms, end_ms)

    def ingest_indicators(
        self, series: IndicatorKey, batches: Iterable[tuple[Column, Column]], *, on_invalid: str = "REJECT"
    ) -> IngestSummary:
        """Upsert values of a stored indicator series, given as (open times, values); on_invalid is REJECT or FAIL."""
        return self._indicators.ingest(series, batches, on_invalid)

    def stream_indicators(
        self,
        series: SeriesKey | IndicatorKey,
        indicators: Sequence[Indicator],
        start_ms: int,
        end_ms: int,
        *,
        batch_size: int = 4096,
    ) -> Iterator[IndicatorBatch]:
        """Yield indicators at the open times of a series' klines in [start, end), through cuts without gap or repeat.

        With an IndicatorKey and the one stored indicator it names, the values come at open times of their own.
        """
        return self._indicators.stream(series, indicators, start_ms, end_ms, batch_size=batch_size)

    def load_indicators(
        self,
        series: SeriesKey | IndicatorKey,
        indicators: Sequence[Indicator],
        start_ms: int,
        end_ms: int,
        *,
        tenant: str | None = None,
    ) -> LoadedIndicators:
        """Read the indicators of [start, end) into one set of columns."""
        return self._indicators.load(series, indicators, start_ms, end_ms, tenant)

    def list_indicator_series(self, *, venue: str = "", symbol: str = "") -> Iterator[IndicatorSeriesSummary]:
        """Yield the stored indicator series."""
        return self._indicators.list_series(venue, symbol)

    def create_backtest(self, config: BacktestConfig, *, request_id: str | None = None) -> Backtest:
        """Queue a backtest; the same request_id gives the same backtest."""
        return self._backtest.create(config, request_id)

    def run_backtest(self, config: BacktestConfig, *, request_id: str | None = None) -> Iterator[BacktestEvent]:
        """Queue a backtest and yield its events up to the terminal one; leaving the iterator cancels nothing."""
        return self._backtest.run(config, request_id)

    def watch_backtest(self, backtest_id: str, *, after_sequence: int = 0) -> Iterator[BacktestEvent]:
        """Yield the events after a number up to the terminal one, each once, through cuts."""
        return self._backtest.watch(backtest_id, after_sequence)

    def get_backtest(self, backtest_id: str) -> Backtest:
        """Get one backtest; raises NotFound."""
        return self._backtest.get(backtest_id)

    def list_backtests(
        self, *, states: Sequence[str] = (), strategy: str = "", limit: int | None = None
    ) -> Iterator[Backtest]:
        """Yield backtests, newest first."""
        return self._backtest.list_backtests(states, strategy, limit)

    def cancel_backtest(self, backtest_id: str) -> Backtest:
        """Cancel a backtest: queued at once, running within a second; return it as it is then."""
        return self._backtest.cancel(backtest_id)

    def list_strategies(self) -> list[Strategy]:
        """List the strategies the service can run."""
        return self._backtest.list_strategies()

    def save_result(
        self,
        header: result_pb2.ResultHeader,
        *,
        trades: Columns | None,
        fills: Columns | None,
        equity: Columns | None,
        fence: int,
        ttl_s: float | None = None,
        tenant: str | None = None,
    ) -> Result:
        """Store a result, for services; raises Aborted (STALE_FENCE) when a newer attempt did or may."""
        chunks = {"trades": trades, "fills": fills, "equity": equity}
        return self._results.save(header, chunks, fence=fence, ttl_s=ttl_s, tenant=tenant)

    def get_result(self, result_id: str) -> Result:
        """Get the header of a result; raises NotFound when it has expired."""
        return self._results.get(result_id)

    def list_results(
        self,
        wanted: ResultFilter | None = None,
        *,
        strategy: str = "",
        symbol: str = "",
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Result]:
        """Yield results as wanted, by default those of a strategy, symbol and labels, newest first."""
        named = ResultFilter(strategy=strategy, symbol=symbol, labels=labels or {})
        return self._results.list(wanted or named, limit)

    def check_results(self, result_ids: Sequence[str], *, tenant: str | None = None) -> tuple[str, ...]:
        """Return those of up to 1,000 results that are kept."""
        return self._results.check(result_ids, tenant)

    def compare_results(self, result_ids: Sequence[str]) -> ResultComparison:
        """Put 2..8 results side by side: statistics, and what differs in configs and manifests."""
        return self._results.compare(result_ids)

    def render_report(self, *result_ids: str) -> str:
        """Render one result, or the comparison of 2..8, as one HTML document that needs no network."""
        return self._results.render_report(result_ids)

    def load_trades(self, result_id: str, *, tenant: str | None = None) -> dict[str, Column]:
        """Read the trades of a result as columns; the open one is the last."""
        return self._results.load("trades", result_id, tenant)

    def load_fills(self, result_id: str, *, tenant: str | None = None) -> dict[str, Column]:
        """Read the fills of a result as columns."""
        return self._results.load("fills", result_id, tenant)

    def load_equity(
        self, result_id: str, *, max_points: int | None = None, tenant: str | None = None
    ) -> dict[str, Column]:
        """Read equity and close per kline as columns; with max_points (10..100,000) thinned, peaks and troughs kept."""
        if max_points is not None:
            return self._results.thinned_equity(result_id, max_points)
        return self._results.load("equity", result_id, tenant)

    def get_retention_policy(self, *, tenant: str | None = None) -> RetentionPolicy:
        """Get the retention policy in effect."""
        return self._results.get_policy(tenant)[0]

    def get_retention_usage(self) -> RetentionUsage:
        """Get what the tenant keeps now."""
        return self._results.get_policy(None)[1]

    def set_retention_policy(self, policy: RetentionPolicy) -> RetentionPolicy:
        """Replace the retention policy, what is None being the service's; return the one in effect."""
        return self._results.set_policy(policy)

    def preview_retention(self, policy: RetentionPolicy | None = None) -> RetentionPreview:
        """Tell what would go now under a policy, by default the one in effect; nothing is deleted."""
        return self._results.preview(policy)

    def list_retention_audit(self, *, reason: str | None = None, limit: int | None = None) -> Iterator[AuditRecord]:
        """Yield what went and why (EXPIRED, MAX_RESULTS, MAX_BYTES, DELETED), newest first."""
        return self._results.audit(reason, limit)

    def update_retention(
        self,
        result_id: str,
        *,
        ttl_s: float | None = None,
        pinned: bool | None = None,
        extend_only: bool = False,
        tenant: str | None = None,
    ) -> Result:
        """Give a result a TTL from now, pin it (True) or unpin it (False); extend_only: never let it expire sooner."""
        return self._results.update_retention(
            result_id, ttl_s=ttl_s, pinned=pinned, extend_only=extend_only, tenant=tenant
        )

    def delete_result(self, result_id: str, *, tombstone_fence: int = 0, tenant: str | None = None) -> bool:
        """Delete a result; False when there was none."""
        return self._results.delete(result_id, tombstone_fence=tombstone_fence, tenant=tenant)

    @cached_property
    def _data_channel(self) -> grpc.Channel:
        return self._open("data")

    @cached_property
    def _data(self) -> DataCalls:
        return DataCalls(self._data_channel, self._caller)

    @cached_property
    def _indicators(self) -> IndicatorCalls:
        return IndicatorCalls(self._data_channel, self._caller)

    @cached_property
    def _backtest(self) -> BacktestCalls:
        return BacktestCalls(self._open("backtest"), partial(self._open, "backtest"), self._caller)

    @cached_property
    def _results(self) -> ResultCalls:
        return ResultCalls(self._open("results"), self._caller)

    def _open(self, service: str, own: str = "") -> grpc.Channel:
        channel = open_channel(self._targets[service], self._security, self._interceptors, own=own)
        self._channels.append(channel)
        return channel
