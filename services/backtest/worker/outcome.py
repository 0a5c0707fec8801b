"""Saves what a run produced through the results service, under the fence of the attempt."""

from __future__ import annotations

from klinecast.client import Client
from klinecast.convert.outcome import (
    equity_to_columns,
    fills_to_columns,
    header_to_proto,
    manifest_to_proto,
    trades_to_columns,
)
from services.backtest.engine import ENGINE_VERSION
from services.backtest.runner import Run
from services.backtest.worker.store import Claim


def save_run(client: Client, claim: Claim, run: Run) -> None:
    """Store a run as the result of its backtest; raise Aborted when a newer attempt holds it."""
    config, outcome, times = run.config, run.outcome, run.klines.open_time_ms
    trades = trades_to_columns(outcome.trades, times) if config.keep_trades else None
    fills = fills_to_columns(outcome.fills, times) if config.keep_trades else None
    equity = equity_to_columns(run.klines, outcome.equity) if config.keep_equity else None
    stop_first, target_first = outcome.bounds
    header = header_to_proto(
        claim.key.backtest_id,
        config,
        statistics=run.statistics,
        numbers={
            "kline_count": len(run.klines),
            "initial_cash": config.initial_cash,
            "final_equity": float(outcome.equity[-1]),
            "pending_target": outcome.pending_target,
            "ambiguous_klines": outcome.ambiguous_klines,
            "resolved_klines": outcome.resolved_klines,
            "total_return_stop_first": stop_first,
            "total_return_target_first": target_first,
            "ruined_at": outcome.ruined_at,
            "trade_rows": len(outcome.trades) if trades is not None else 0,
            "fill_rows": len(outcome.fills) if fills is not None else 0,
            "equity_rows": len(outcome.equity) if equity is not None else 0,
        },
        open_position=_open_position(run),
        manifest=manifest_to_proto(
            config,
            run.read,
            revision=run.revision,
            source_interval=run.source_interval,
            gap_count=run.gaps.count,
            missing_count=run.gaps.missing,
            gaps=run.gaps.first,
            strategy_version=run.strategy_version,
            code_hash=run.code_hash,
            engine_version=ENGINE_VERSION,
        ),
    )
    client.save_result(
        header,
        trades=trades,
        fills=fills,
        equity=equity,
        fence=claim.fence,
        ttl_s=config.result_ttl_s,
        tenant=claim.key.tenant,
    )


def _open_position(run: Run) -> tuple[float, float, float] | None:
    trades = run.outcome.trades
    if run.outcome.quantity == 0.0 or not len(trades) or trades[-1]["exit_index"] >= 0:
        return None
    last = trades[-1]
    return float(run.outcome.quantity), float(last["entry_price"]), float(last["profit"])
