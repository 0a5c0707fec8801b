"""Saves what a run produced through the results service, under the fence of the attempt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from klinecast.api.results.v1 import result_pb2
from klinecast.client import Client
from klinecast.convert.outcome import (
    Columns,
    fills_to_columns,
    header_to_proto,
    manifest_to_proto,
    series_manifest_to_proto,
    series_result_to_proto,
    trades_to_columns,
)
from klinecast.types import Account
from services.backtest.engine import ENGINE_VERSION
from services.backtest.run import Gaps, Run, SeriesRun
from services.backtest.worker.store import Claim


def save_run(client: Client, claim: Claim, run: Run) -> None:
    """Store a run as the result of its backtest; raise Aborted when a newer attempt holds it."""
    config, times = run.config, [one.klines.open_time_ms for one in run.series]
    trades = trades_to_columns([one.outcome.trades for one in run.series], times) if config.keep_trades else None
    fills = fills_to_columns([one.outcome.fills for one in run.series], times) if config.keep_trades else None
    curve = _curve(run)
    several = run.portfolio is not None
    stop_first, target_first = run.series[0].outcome.bounds if run.portfolio is None else run.portfolio.bounds
    header = header_to_proto(
        claim.key.backtest_id,
        config,
        statistics=run.statistics,
        numbers={
            "kline_count": len(curve["equity"]),
            "initial_cash": config.initial_cash,
            "final_equity": float(curve["equity"][-1]),
            "pending_target": None if several else run.series[0].outcome.pending_target,
            "ambiguous_klines": sum(one.outcome.ambiguous_klines for one in run.series),
            "resolved_klines": sum(one.outcome.resolved_klines for one in run.series),
            "total_return_stop_first": stop_first,
            "total_return_target_first": target_first,
            "ruined_at": run.series[0].outcome.ruined_at if run.portfolio is None else run.portfolio.ruined_at,
            "trade_rows": 0 if trades is None else len(trades["profit"]),
            "fill_rows": 0 if fills is None else len(fills["price"]),
            "equity_rows": len(curve["equity"]) if config.keep_equity else 0,
        },
        open_position=None if several else _open_position(run.series[0]),
        manifest=manifest_to_proto(
            [*map(_manifest, run.series), *_finer_manifests(run)],
            strategy_version=run.strategy_version,
            code_hash=run.code_hash,
            engine_version=ENGINE_VERSION,
            continued_from=run.series[0].continued_from,
        ),
        series_results=[_series_result(one, run.config.account) for one in run.series] if several else (),
    )
    client.save_result(
        header,
        trades=trades,
        fills=fills,
        equity=curve if config.keep_equity else None,
        fence=claim.fence,
        ttl_s=config.result_ttl_s,
        tenant=claim.key.tenant,
    )


def _curve(run: Run) -> Columns:
    """Put equity beside its times and what buy and hold would be."""
    if run.portfolio is not None:
        one = run.portfolio
        return {"open_time_ms": one.open_time_ms, "equity": one.equity, "close": one.held_index}
    klines = run.series[0].klines
    return {"open_time_ms": klines.open_time_ms, "equity": run.series[0].outcome.equity, "close": klines.close}


def _manifest(one: SeriesRun) -> result_pb2.SeriesManifest:
    return series_manifest_to_proto(
        one.series,
        one.loaded.klines,
        revision=one.loaded.revision,
        source_interval=one.loaded.source_interval,
        gap_count=one.gaps.count,
        missing_count=one.gaps.missing,
        gaps=one.gaps.first,
    )


def _finer_manifests(run: Run) -> Iterator[result_pb2.SeriesManifest]:
    for one in run.series:
        if one.finer is not None and run.config.finer_interval is not None:
            gaps = Gaps.of(one.finer.klines, run.config.finer_interval)
            yield series_manifest_to_proto(
                dataclasses.replace(one.series, interval=run.config.finer_interval),
                one.finer.klines,
                revision=one.finer.revision,
                source_interval=one.finer.source_interval,
                gap_count=gaps.count,
                missing_count=gaps.missing,
                gaps=gaps.first,
            )


def _series_result(one: SeriesRun, account: Account) -> result_pb2.SeriesResult:
    alone: Mapping[str, float] = {}
    if account is Account.SEPARATE:
        alone = {"initial_cash": one.outcome.initial_cash, "final_equity": float(one.outcome.equity[-1])}
    return series_result_to_proto(
        one.series,
        statistics=one.statistics,
        numbers={"kline_count": len(one.klines), "pending_target": one.outcome.pending_target, **alone},
        open_position=_open_position(one),
    )


def _open_position(one: SeriesRun) -> tuple[float, float, float] | None:
    trades = one.outcome.trades
    if one.outcome.quantity == 0.0 or not len(trades) or trades[-1]["exit_index"] >= 0:
        return None
    last = trades[-1]
    return float(one.outcome.quantity), float(last["entry_price"]), float(last["profit"])
