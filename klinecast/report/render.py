"""Fills the template: everything dynamic is escaped, and everything the page needs is inside it."""

from __future__ import annotations

import datetime as dt
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klinecast.report.data import ReportData
from klinecast.report.series import compute_drawdown, compute_monthly_returns, pick_points

_TILES = (
    ("total_return", "Total return", "percent"),
    ("buy_and_hold_return", "Buy and hold", "percent"),
    ("cagr", "CAGR", "percent"),
    ("max_drawdown", "Max drawdown", "percent"),
    ("sharpe", "Sharpe", "number"),
    ("trade_count", "Closed trades", "count"),
    ("win_rate", "Win rate", "share"),
    ("profit_factor", "Profit factor", "number"),
)
_TRADES = ("entry_time_ms", "exit_time_ms", "side", "quantity", "entry_price", "exit_price", "profit", "fees")
_TEXTS = ("exit_reason", "series")
_EACH = (
    ("profit", "Profit", "money"),
    ("total_return", "Total return", "percent"),
    ("buy_and_hold_return", "Buy and hold", "percent"),
    ("max_drawdown", "Max drawdown", "percent"),
    ("trade_count", "Closed trades", "count"),
    ("win_rate", "Win rate", "share"),
    ("total_fees", "Fees", "money"),
)
_DASH = "–"


def render_report(data: ReportData) -> str:
    """Return the report as one HTML document."""
    parts = {
        "title": html.escape(f"{data.strategy} on {data.series}"),
        "subtitle": html.escape(f"{_day(data.start_ms)} to {_day(data.end_ms)} UTC · backtest {data.backtest_id}"),
        "tiles": "".join(_tile(data, *tile) for tile in _TILES),
        "each": _each_series(data),
        "months": _months(data),
        "statistics": _rows({name: f"{value:,.6g}" for name, value in sorted(data.statistics.items())}),
        "setup": _rows({"strategy_version": data.strategy_version, **data.params, **data.execution}),
        "honesty": _rows(data.honesty),
        "data": _script_json(_chart_data(data)),
        "style": _asset("vendor/uplot/uPlot.min.css") + _asset("report.css"),
        "script": _asset("vendor/uplot/uPlot.iife.min.js") + "\n" + _asset("report.js"),
    }
    page = _asset("template.html")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text, 1)
    return page


def _chart_data(data: ReportData) -> dict[str, Any]:
    points = np.union1d(pick_points(data.equity, 1000), pick_points(data.close, 1000)).astype(np.int64)
    held = data.initial_cash * data.close / data.close[0] if len(data.close) else data.close
    drawdown = compute_drawdown(data.equity, data.initial_cash)
    return {
        "time": (data.open_time_ms[points] // 1000).tolist(),
        "equity": _rounded(data.equity[points]),
        "held": _rounded(held[points]),
        "drawdown": _rounded(drawdown[points]),
        "close": _rounded(data.close[points]),
        "trades": [_plain(data.trades[name]) for name in _TRADES]
        + [data.trades[name].astype(str).tolist() for name in _TEXTS if name in data.trades],
        "several": bool(data.each_series),
    }


def _tile(data: ReportData, name: str, label: str, kind: str) -> str:
    text = _number(data.statistics.get(name), kind)
    return f'<div class="tile"><dt>{html.escape(label)}</dt><dd>{text}</dd></div>'


def _number(value: float | None, kind: str) -> str:
    if value is None:
        return _DASH
    return {
        "percent": f"{value:+.2%}",
        "share": f"{value:.2%}",
        "number": f"{value:,.2f}",
        "money": f"{value:,.2f}",
        "count": f"{value:,.0f}",
    }[kind]


def _each_series(data: ReportData) -> str:
    """Return the section that lists the series, empty where there is one."""
    if not data.each_series:
        return ""
    heads = "".join(f'<th scope="col">{label}</th>' for label in ("Series", *(label for _, label, _ in _EACH)))
    rows = []
    for series, statistics in data.each_series.items():
        cells = "".join(f"<td>{_number(statistics.get(name), kind)}</td>" for name, _, kind in _EACH)
        rows.append(f'<tr><th scope="row">{html.escape(series)}</th>{cells}</tr>')
    return (
        '<section aria-labelledby="h-each"><h2 id="h-each">Each series</h2><div class="scroll" tabindex="0">'
        f'<table class="months"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _months(data: ReportData) -> str:
    returns = compute_monthly_returns(data.open_time_ms, data.equity, data.initial_cash)
    years = sorted({name[:4] for name in returns})
    lines = []
    for year in years:
        cells = [_month_cell(returns.get(f"{year}-{month:02d}")) for month in range(1, 13)]
        lines.append(f'<tr><th scope="row">{year}</th>{"".join(cells)}</tr>')
    return "".join(lines)


def _month_cell(value: float | None) -> str:
    if value is None:
        return f"<td>{_DASH}</td>"
    strength = min(abs(value) / 0.15, 1.0)
    return f'<td class="{"gain" if value >= 0 else "loss"}" style="--strength:{strength:.2f}">{value:+.1%}</td>'


def _rows(values: Mapping[str, object]) -> str:
    return "".join(
        f'<tr><th scope="row">{html.escape(name.replace("_", " "))}</th><td>{html.escape(_text(value))}</td></tr>'
        for name, value in values.items()
    )


def _text(value: object) -> str:
    if value is None or value == "":
        return _DASH
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return str(value)


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values.tolist()]


def _plain(values: NDArray[Any]) -> list[Any]:
    return _rounded(values) if values.dtype.kind == "f" else values.tolist()


def _script_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("klinecast.report").joinpath(name).read_text(encoding="utf-8")


def _day(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d")
