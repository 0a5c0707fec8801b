"""Reads a result through the SDK and writes its report."""

from __future__ import annotations

from pathlib import Path

from klinecast.client import Client, Result
from klinecast.report import render_report, report_data


def write_report(client: Client, result: Result, path: Path) -> None:
    """Write one self-contained HTML file."""
    data = report_data(result, client.load_equity(result.result_id), client.load_trades(result.result_id))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(data), encoding="utf-8")
