"""The report of one result. Everything dynamic is escaped; its size is bounded, however long the backtest was."""

from __future__ import annotations

import html

import numpy as np
from numpy.typing import NDArray

from klinecast.report.data import ReportData
from klinecast.report.honesty import honesty_box, honesty_warnings
from klinecast.report.labels import Kind, day, number
from klinecast.report.page import chart_box, exact, fact_columns, fill_page, plain, scrolled, section
from klinecast.report.series import (
    Histogram,
    compute_drawdown,
    compute_histogram,
    compute_trade_returns,
    pick_for_all,
    pick_points,
)
from klinecast.report.tables import months_table, series_table, statistics_tables, tiles

MAX_TRADES = 2_000
"""In the table, the CSV and the chart."""

_TRADES = ("entry_time_ms", "exit_time_ms", "side", "quantity", "entry_price", "exit_price", "profit", "fees")
_TEXTS = ("exit_reason", "series")
_ZOOM = "Drag to zoom in, double-click to zoom out."
_MARKERS = (
    '<span class="key"><span><i class="up">▲</i> long entry, below its price</span>'
    '<span><i class="down">▼</i> short entry, above it</span>'
    '<span><i class="up">●</i> exit with a profit</span><span><i class="down">✕</i> exit with a loss</span></span>'
)


def render_report(data: ReportData) -> str:
    """Return the report as one HTML document that fetches nothing."""
    spread = compute_histogram(compute_trade_returns(data.trades))
    return fill_page(
        title=f"{data.strategy} on {_series(data)}",
        subtitle=f"{day(data.start_ms)} to {day(data.end_ms)} UTC · backtest {data.backtest_id}",
        body="".join((tiles(data), _call(data), *_charts(data, spread), *_tables(data))),
        data=_chart_data(data, spread),
        script="report.js",
    )


def _charts(data: ReportData, spread: Histogram) -> list[str]:
    shares = "an equal share of each series" if data.each_series else "the start money"
    held = f"Buy and hold is {shares}, bought at the first close, without costs. {_ZOOM}" if len(data.equity) else ""
    sections = [
        section("equity", "Equity against buy and hold", chart_box("equity", _described(data)), held),
        section("drawdown", "Drawdown", chart_box("drawdown", _described_drawdown(data), "low")),
    ]
    if data.each_series:  # prices of several series share no axis
        sections.append(section("each", "Each series", series_table(data)))
    else:
        price = chart_box("price", _described_price(data))
        marked = _MARKERS + _shown(data, "marked") if len(data.close) else ""
        sections.append(section("price", "Price, entries and exits", price, marked))
    sections.append(section("months", "Monthly returns", months_table(data)))
    bars = chart_box("spread", _described_spread(spread), "low")
    return [*sections, section("spread", "Returns of closed trades", bars, _noted(spread))]


def _tables(data: ReportData) -> list[str]:
    button = '<button id="csv" type="button">Download CSV</button>'
    table = scrolled('<table id="trades"><thead><tr></tr></thead><tbody></tbody></table>', "Trades", "tall")
    setup = {"strategy": data.strategy, "strategy version": data.strategy_version}
    return [
        section("trades", "Trades", table, f"<span>{_shown(data, 'listed and in the CSV')}</span>{button}"),
        section("honesty", "What flatters the result", honesty_box(data)),
        section("statistics", "Statistics", statistics_tables(data.statistics)),
        section("params", "Strategy and params", fact_columns({**setup, **data.params})),
        section("execution", "Execution model", fact_columns(data.execution)),
    ]


def _call(data: ReportData) -> str:
    """Return the line at the top that leads to the warnings, empty where there are none."""
    count = len(honesty_warnings(data))
    if not count:
        return ""
    said = "1 thing flatters this result" if count == 1 else f"{count} things flatter this result"
    return f'<p class="call"><a href="#s-honesty">{said}, or could. Read this before you trust it.</a></p>'


def _chart_data(data: ReportData, spread: Histogram) -> dict[str, object]:
    held = data.initial_cash * data.close / data.close[0] if len(data.close) else data.close
    drawdown = compute_drawdown(data.equity, data.initial_cash)
    points = pick_for_all([data.equity, held])
    rows = _first(data)
    return {
        "id": data.backtest_id,
        "equity": [_seconds(data, points), plain(data.equity[points]), plain(held[points])],
        "drawdown": _curve(data, drawdown),
        "price": None if data.each_series else _curve(data, data.close),
        "spread": [plain(100 * spread.centers), spread.counts.tolist(), 100 * spread.width],
        "trades": [exact(data.trades[name][rows]) for name in (*_TRADES, *_TEXTS) if name in data.trades],
    }


def _first(data: ReportData) -> NDArray[np.int64]:
    """Return the rows of the first trades by entry; the order of the columns is by exit, series after series."""
    return np.argsort(data.trades["entry_time_ms"], kind="stable")[:MAX_TRADES]


def _curve(data: ReportData, values: NDArray[np.float64]) -> list[list[object]]:
    points = pick_points(values)
    return [_seconds(data, points), plain(values[points])]


def _seconds(data: ReportData, points: NDArray[np.int64]) -> list[object]:
    return plain(data.open_time_ms[points] // 1000)


def _shown(data: ReportData, verb: str) -> str:
    count = len(data.trades["profit"])
    if count <= MAX_TRADES:
        return f"<span>All {count:,} trades are {verb}, open ones included.</span>" if count else ""
    return (
        f"<span><b>{MAX_TRADES:,} of {count:,} trades, the first ones by entry, are {verb}.</b> "
        "Statistics and the distribution count all.</span>"
    )


def _noted(spread: Histogram) -> str:
    note = "Profit, net of fees, as a share of what the entry cost, of all closed trades."
    beyond = f" {spread.beyond:,} beyond the edges are counted in the outermost bars." if spread.beyond else ""
    return html.escape(note + beyond) if spread.counts.sum() else ""


def _described(data: ReportData) -> str:
    if not len(data.equity):
        return "Equity was not kept"
    low, high = (number(float(one), Kind.MONEY) for one in (data.equity.min(), data.equity.max()))
    first, last = number(data.initial_cash, Kind.MONEY), number(data.final_equity, Kind.MONEY)
    return f"Equity over time, from {first} to {last}, between {low} and {high}; buy and hold beside it"


def _described_drawdown(data: ReportData) -> str:
    return f"Drawdown over time, at worst {number(data.statistics.get('max_drawdown'), Kind.PERCENT)}"


def _described_price(data: ReportData) -> str:
    if not len(data.close):
        return "Prices were not kept"
    first, last, low, high = (
        f"{one:,.7g}" for one in (data.close[0], data.close[-1], data.close.min(), data.close.max())
    )
    return (
        f"Price from {first} to {last}, between {low} and {high}, with the entries and exits the table of trades lists"
    )


def _described_spread(spread: Histogram) -> str:
    won = int(spread.counts[spread.centers > 0].sum())
    return f"Distribution of the returns of {int(spread.counts.sum()):,} closed trades, {won:,} of them above 0"


def _series(data: ReportData) -> str:
    return f"{len(data.each_series)} series" if len(data.each_series) > 1 else data.series
