"""The one JSON document of `backtest run`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from klinecast.client import Backtest, Result


def run_document(backtest: Backtest, result: Result | None, report: Path | None) -> dict[str, object]:
    """Return what `backtest run --json` prints; numbers of a backtest without result are null."""
    series = [dataclasses.asdict(one) | {"series": str(one.series)} for one in result.series_results] if result else []
    return {
        "backtest_id": backtest.backtest_id,
        "state": backtest.state,
        "result_id": backtest.result_id,
        "reused": backtest.reused,
        "klines": result.klines if result else None,
        "initial_cash": result.initial_cash if result else None,
        "final_equity": result.final_equity if result else None,
        "open_position": result.open_position if result else None,
        "statistics": dict(result.statistics) if result else {},
        "timings_ms": {phase: seconds * 1000 for phase, seconds in sorted(backtest.timings_s.items())},
        "report": str(report) if report else None,
        "error": dataclasses.asdict(backtest.error) if backtest.error else None,
        **({"series": series} if series else {}),
    }
