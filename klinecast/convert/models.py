"""Messages of the services as the values the SDK returns."""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.message import Message

from klinecast import models
from klinecast.api.backtest.v1 import backtest_pb2, strategy_pb2
from klinecast.api.data.v1 import data_service_pb2, series_summary_pb2
from klinecast.api.market.v1 import series_pb2
from klinecast.api.results.v1 import result_pb2
from klinecast.convert.execution import execution_from_proto
from klinecast.convert.market import INTERVAL_FROM_PROTO, MARKET_TYPE_FROM_PROTO, timestamp_from_proto
from klinecast.convert.violations import Violations
from klinecast.series import SeriesKey


def optional_field(message: Message, name: str) -> float | None:
    """Return a field with explicit presence, None when it is absent."""
    return getattr(message, name) if message.HasField(name) else None


def optional_time_ms(message: Message, name: str) -> int | None:
    """Return a Timestamp as epoch milliseconds, None when it is absent."""
    return timestamp_from_proto(getattr(message, name)) if message.HasField(name) else None


def series_key(proto: series_pb2.Series) -> SeriesKey:
    """Convert the identity of a stored series."""
    return SeriesKey(
        proto.venue, MARKET_TYPE_FROM_PROTO[proto.market_type], proto.symbol, INTERVAL_FROM_PROTO[proto.interval]
    )


def series_summary(proto: series_summary_pb2.SeriesSummary) -> models.SeriesSummary:
    """Convert a series and what it holds."""
    first, last = (optional_field(proto, f"{name}_open_time_ms") for name in ("first", "last"))
    return models.SeriesSummary(
        series_key(proto.series),
        None if first is None else int(first),
        None if last is None else int(last),
        proto.kline_count,
        proto.revision,
        proto.gap_count,
    )


def range_summary(proto: data_service_pb2.GetRangeResponse) -> models.RangeSummary:
    """Convert what a range holds."""
    indicators = {
        name: models.IndicatorRange(one.value_count, one.revision, one.rewrite_revision)
        for name, one in proto.indicators.items()
    }
    source = INTERVAL_FROM_PROTO[proto.source_interval]
    return models.RangeSummary(proto.kline_count, proto.revision, proto.rewrite_revision, source, indicators)


def gap(proto: series_summary_pb2.Gap) -> models.Gap:
    """Convert a gap."""
    return models.Gap(proto.first_open_time_ms, proto.last_open_time_ms, proto.missing_count)


def ingest_summary(proto: data_service_pb2.IngestKlinesResponse) -> models.IngestSummary:
    """Convert what an ingest did."""
    rejections = tuple(
        models.RejectedKline(one.index, one.field, one.reason, one.open_time_ms) for one in proto.rejections
    )
    return models.IngestSummary(
        proto.inserted, proto.updated, proto.unchanged, proto.rejected, proto.revision, rejections
    )


def backtest(proto: backtest_pb2.Backtest) -> models.Backtest:
    """Convert a backtest."""
    return models.Backtest(
        backtest_id=proto.backtest_id,
        state=_state(proto.state),
        attempt=proto.attempt,
        phase=_phase(proto.phase),
        fraction_done=proto.fraction_done,
        klines_done=proto.klines_done,
        klines_total=proto.klines_total,
        timings_s=dict(proto.timings_s),
        result_id=proto.result_id or None,
        result_expired=proto.result_expired if proto.HasField("result_expired") else None,
        reused=proto.reused,
        error=_error(proto.error) if proto.HasField("error") else None,
        create_time_ms=timestamp_from_proto(proto.create_time),
        start_time_ms=optional_time_ms(proto, "start_time"),
        end_time_ms=optional_time_ms(proto, "end_time"),
        last_sequence=proto.last_sequence,
        request_id=proto.request_id,
        strategy=proto.config.strategy,
        series=", ".join(str(series_key(one)) for one in proto.config.series),
    )


def event(proto: backtest_pb2.BacktestEvent) -> models.BacktestEvent:
    """Convert an event."""
    position = optional_field(proto, "queue_position")
    return models.BacktestEvent(
        backtest_id=proto.backtest_id,
        sequence=proto.sequence,
        state=_state(proto.state),
        attempt=proto.attempt,
        phase=_phase(proto.phase),
        fraction_done=proto.fraction_done,
        klines_done=proto.klines_done,
        klines_total=proto.klines_total,
        equity=optional_field(proto, "equity"),
        drawdown=optional_field(proto, "drawdown"),
        eta_s=proto.eta.ToTimedelta().total_seconds() if proto.HasField("eta") else None,
        queue_position=None if position is None else int(position),
        result_id=proto.result_id or None,
        reused=proto.reused,
        error=_error(proto.error) if proto.HasField("error") else None,
        timings_s=dict(proto.timings_s),
    )


def strategy(proto: strategy_pb2.Strategy) -> models.Strategy:
    """Convert a strategy."""
    return models.Strategy(
        proto.name, proto.version, proto.description, json_format.MessageToDict(proto.params_schema), proto.warmup
    )


def result(proto: result_pb2.Result) -> models.Result:
    """Convert a result."""
    header, config = proto.header, proto.header.config
    manifests = header.manifest.series[: len(config.series)] or [result_pb2.SeriesManifest()]
    return models.Result(
        result_id=header.result_id,
        strategy=config.strategy,
        strategy_version=header.manifest.strategy_version,
        params=json_format.MessageToDict(config.params),
        series=", ".join(str(series_key(one)) for one in config.series),
        start_ms=timestamp_from_proto(config.start_time),
        end_ms=timestamp_from_proto(config.end_time),
        labels=dict(config.labels),
        klines=header.kline_count,
        initial_cash=header.initial_cash,
        final_equity=header.final_equity,
        open_position=_position(header),
        statistics=dict(sorted(header.statistics.items())),
        execution=_execution(config),
        pending_target=optional_field(header, "pending_target"),
        ambiguous_klines=header.ambiguous_klines,
        resolved_klines=header.resolved_klines,
        total_return_bounds=(header.total_return_stop_first, header.total_return_target_first),
        gap_count=sum(manifest.gap_count for manifest in manifests),
        missing_count=sum(manifest.missing_count for manifest in manifests),
        gaps=tuple(
            models.Gap(one.first_open_time_ms, one.last_open_time_ms, one.missing_count)
            for manifest in manifests
            for one in manifest.gaps
        ),
        source_interval=INTERVAL_FROM_PROTO.get(manifests[0].source_interval),
        klines_read=sum(manifest.kline_count for manifest in header.manifest.series),
        continued_from=header.manifest.continued_from,
        series_results=tuple(map(_series_result, header.series_results)),
        trade_rows=header.trade_rows,
        fill_rows=header.fill_rows,
        equity_rows=header.equity_rows,
        create_time_ms=timestamp_from_proto(proto.create_time),
        expire_time_ms=optional_time_ms(proto, "expire_time"),
        pinned=proto.pinned,
        stored_bytes=proto.stored_bytes,
        last_read_time_ms=timestamp_from_proto(proto.last_read_time),
    )


def _position(proto: result_pb2.ResultHeader | result_pb2.SeriesResult) -> dict[str, float] | None:
    if not proto.HasField("open_position"):
        return None
    position = proto.open_position
    return {"quantity": position.quantity, "entry_price": position.entry_price, "profit": position.profit}


def _series_result(proto: result_pb2.SeriesResult) -> models.SeriesResult:
    return models.SeriesResult(
        series=series_key(proto.series),
        statistics=dict(sorted(proto.statistics.items())),
        klines=proto.kline_count,
        initial_cash=proto.initial_cash or None,
        final_equity=optional_field(proto, "final_equity"),
        open_position=_position(proto),
        pending_target=optional_field(proto, "pending_target"),
    )


def _execution(config: backtest_pb2.BacktestConfig) -> dict[str, object]:
    market_type = series_key(config.series[0]).market_type.value if config.series else "SPOT"
    model = execution_from_proto(config.execution, "execution", Violations(), market_type=market_type)
    return {} if model is None else model.to_dict()


def _state(number: int) -> str:
    return backtest_pb2.BacktestState.Name(number).removeprefix("BACKTEST_STATE_")  # type: ignore[arg-type]


def _phase(number: int) -> str | None:
    return backtest_pb2.Phase.Name(number).removeprefix("PHASE_") if number else None  # type: ignore[arg-type]


def _error(proto: backtest_pb2.BacktestError) -> models.BacktestError:
    index = optional_field(proto, "kline_index")
    return models.BacktestError(proto.reason, proto.message, None if index is None else int(index), proto.detail)
