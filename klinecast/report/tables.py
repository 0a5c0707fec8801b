"""Tables of a report: headline numbers, months, series, statistics."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

from klinecast.report.data import ReportData
from klinecast.report.labels import DASH, Kind, Label, in_order, label_of, number, shortened
from klinecast.report.page import MAX_ROWS, fact_columns, head_row, scrolled
from klinecast.report.series import compute_monthly_returns

_TILES = (
    "total_return",
    "buy_and_hold_return",
    "cagr",
    "max_drawdown",
    "sharpe",
    "trade_count",
    "win_rate",
    "profit_factor",
)
_EACH = (
    "profit",
    "total_return",
    "buy_and_hold_return",
    "max_drawdown",
    "sharpe",
    "trade_count",
    "win_rate",
    "total_fees",
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def tiles(data: ReportData) -> str:
    """Return the headline numbers."""
    return f'<dl class="tiles">{"".join(_tile(label_of(name), data.statistics.get(name)) for name in _TILES)}</dl>'


def statistics_tables(statistics: Mapping[str, float]) -> str:
    """Return all statistics, in columns where there is room."""
    rows = [(label_of(name), statistics[name]) for name in in_order(set(statistics))][:MAX_ROWS]
    return fact_columns({label.text: number(value, label.kind) for label, value in rows})


def series_table(data: ReportData) -> str:
    """Return the statistics of each of several series."""
    labels = [label_of(name) for name in _EACH]
    rows = []
    for series, statistics in list(data.each_series.items())[:MAX_ROWS]:
        cells = "".join(f"<td>{number(statistics.get(name), label_of(name).kind)}</td>" for name in _EACH)
        rows.append(f'<tr><th scope="row">{html.escape(shortened(series))}</th>{cells}</tr>')
    table = f"<table>{head_row(['Series', *(one.text for one in labels)])}<tbody>{''.join(rows)}</tbody></table>"
    return scrolled(table, "Statistics of each series", "tall")


def months_table(data: ReportData) -> str:
    """Return the return of each month and year; empty when equity was not kept."""
    returns = compute_monthly_returns(data.open_time_ms, data.equity, data.initial_cash)
    years = sorted({name[:-3] for name in returns}, key=int)[-MAX_ROWS:]
    lines = []
    for year in years:
        found = [returns.get(f"{year}-{month:02d}") for month in range(1, 13)]
        total = math.prod(1.0 + one for one in found if one is not None) - 1.0
        cells = "".join(_heat(one, 0.15) for one in found) + _heat(total, 0.6, "total ")
        lines.append(f'<tr><th scope="row">{year}</th>{cells}</tr>')
    if not lines:
        return '<p class="empty">Equity was not kept, so there are no months to show.</p>'
    table = f'<table class="months">{head_row(["Year", *_MONTHS, "Total"])}<tbody>{"".join(lines)}</tbody></table>'
    return scrolled(table, "Monthly returns")


def _tile(label: Label, value: float | None) -> str:
    tone = ""
    if label.kind is Kind.PERCENT and value:
        tone = ' class="up"' if value > 0 else ' class="down"'
    return f'<div class="tile"><dt>{html.escape(label.text)}</dt><dd{tone}>{number(value, label.kind)}</dd></div>'


def _heat(value: float | None, full: float, css: str = "") -> str:
    """Return a cell, coloured fully at a change of `full`."""
    if value is None:
        return f'<td class="{css}none">{DASH}</td>'
    strength = min(abs(value) / full, 1.0)
    tone = "gain" if value >= 0 else "loss"
    written = f"{value:+.1%}".replace("-", "−")
    return f'<td class="{css}{tone}" style="--strength:{strength:.2f}">{written}</td>'
