"""The report of several results side by side."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from klinecast.report.data import ComparedResult, ComparisonData
from klinecast.report.labels import Kind, day, in_order, label_of, number, shortened, text
from klinecast.report.page import MAX_ROWS, chart_box, fill_page, plain, scrolled, section
from klinecast.report.series import MAX_POINTS, compute_drawdown, pick_points

Floats = NDArray[np.float64]
_BEST = '<span class="mark" aria-hidden="true">★</span><span class="unseen"> (best)</span>'


def render_comparison(comparison: ComparisonData) -> str:
    """Return the comparison as one HTML document that fetches nothing."""
    results = comparison.results
    growth = chart_box("growth", f"Growth of 1 over time: {_finals(results)}")
    drawdowns = chart_box("drawdowns", f"Drawdown over time, at worst: {_worst(results)}")
    sections = (
        section("results", "Results", _results_table(results), html.escape(_ranges_note(results))),
        section(
            "growth", "Growth of 1", growth, "Equity divided by the start money. Drag to zoom in, double-click out."
        ),
        section("drawdowns", "Drawdowns", drawdowns),
        section(
            "statistics", "Statistics", _statistics_table(results), "★ marks the best where more or less is better."
        ),
        section("differences", "What differs in the configs", _differences(comparison)),
    )
    return fill_page(
        title=f"{len(results)} results compared",
        subtitle=f"{day(min(one.start_ms for one in results))} to {day(max(one.end_ms for one in results))} UTC",
        body="".join(sections),
        data=_chart_data(results),
        script="compare.js",
    )


def _chart_data(results: Sequence[ComparedResult]) -> dict[str, object]:
    growths = [one.equity / one.initial_cash for one in results]
    return {
        "labels": [shortened(one.label) for one in results],
        "growth": _aligned(results, growths),
        "drawdowns": _aligned(results, [compute_drawdown(values, 1.0) for values in growths]),
    }


def _aligned(results: Sequence[ComparedResult], curves: Sequence[Floats]) -> list[list[object]]:
    """Return the union of the times picked, in seconds, and each curve at those it has; None where it has none."""
    most = MAX_POINTS // len(results)
    times = [one.open_time_ms for one in results]
    picked = [one[pick_points(curve, most)] for one, curve in zip(times, curves, strict=True)]
    union = np.unique(np.concatenate(picked)).astype(np.int64)
    return [plain(union // 1000), *(plain(_at(union, *one)) for one in zip(times, curves, strict=True))]


def _at(union: NDArray[np.int64], time_ms: NDArray[np.int64], curve: Floats) -> Floats:
    if not len(curve):
        return np.full(len(union), np.nan)
    found = np.minimum(np.searchsorted(time_ms, union), len(time_ms) - 1)
    return np.where(time_ms[found] == union, curve[found], np.nan)


def _results_table(results: Sequence[ComparedResult]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_swatch(index)}{html.escape(shortened(one.label))}</th>'
        f'<td class="words">{html.escape(shortened(one.series))}</td>'
        f"<td>{day(one.start_ms)}</td><td>{day(one.end_ms)}</td><td>{number(one.initial_cash, Kind.MONEY)}</td></tr>"
        for index, one in enumerate(results)
    )
    heads = '<th scope="col">Result</th><th scope="col" class="words">Series</th>'
    heads += '<th scope="col">From</th><th scope="col">To</th><th scope="col">Start money</th>'
    return scrolled(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>", "Results")


def _statistics_table(results: Sequence[ComparedResult]) -> str:
    names = in_order({name for one in results for name in one.statistics})[:MAX_ROWS]
    rows = []
    for name in names:
        label = label_of(name)
        values = [one.statistics.get(name) for one in results]
        best = find_best(values, label.better)
        cells = "".join(
            f'<td class="best">{number(value, label.kind)}{_BEST}</td>' if index in best
            else f"<td>{number(value, label.kind)}</td>"
            for index, value in enumerate(values)
        )  # fmt: skip
        rows.append(f'<tr><th scope="row">{html.escape(label.text)}</th>{cells}</tr>')
    return scrolled(_side_by_side("Statistic", results, rows), "Statistics side by side")


def find_best(values: Sequence[float | None], better: int) -> frozenset[int]:
    """Return where the best values are; nowhere where neither direction is better or all that are known are equal."""
    known = [
        (better * value, index) for index, value in enumerate(values) if value is not None and math.isfinite(value)
    ]
    if not better or len({score for score, _ in known}) < 2:
        return frozenset()
    best = max(known)[0]
    return frozenset(index for score, index in known if score == best)


def _differences(comparison: ComparisonData) -> str:
    if not comparison.differences:
        return '<p class="empty">Nothing: the configs are equal.</p>'
    rows = []
    for path, texts in list(comparison.differences.items())[:MAX_ROWS]:
        cells = "".join(f"<td>{html.escape(text(one))}</td>" for one in texts)
        rows.append(f'<tr><th scope="row">{html.escape(shortened(path))}</th>{cells}</tr>')
    table = scrolled(_side_by_side("Field", comparison.results, rows), "What differs in the configs")
    more = len(comparison.differences) - MAX_ROWS
    return table if more <= 0 else f'{table}<p class="note more">{more:,} more are not shown.</p>'


def _side_by_side(first: str, results: Sequence[ComparedResult], rows: Sequence[str]) -> str:
    heads = "".join(
        f'<th scope="col">{_swatch(index)}{html.escape(shortened(one.label))}</th>' for index, one in enumerate(results)
    )
    head = f'<thead><tr><th scope="col">{first}</th>{heads}</tr></thead>'
    return f'<table class="beside">{head}<tbody>{"".join(rows)}</tbody></table>'


def _swatch(index: int) -> str:
    """Return the line a result is drawn with, as a mark before its name."""
    return f'<i class="swatch {"dashed" if index >= 4 else ""}" style="--swatch:var(--c{index})"></i>'


def _ranges_note(results: Sequence[ComparedResult]) -> str:
    if all(one.start_ms == two.start_ms and one.end_ms == two.end_ms for one, two in pairwise(results)):
        return ""
    return "The results cover different times: total returns and drawdowns do not compare directly."


def _finals(results: Sequence[ComparedResult]) -> str:
    finals = [f"{one.label} {one.equity[-1] / one.initial_cash:.2f}" for one in results if len(one.equity)]
    return shortened(", ".join(finals)) or "equity was not kept"


def _worst(results: Sequence[ComparedResult]) -> str:
    return shortened(
        ", ".join(f"{one.label} {number(one.statistics.get('max_drawdown'), Kind.PERCENT)}" for one in results)
    )
