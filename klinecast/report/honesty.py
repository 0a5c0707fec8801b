"""What flatters a result: the facts, and in plain words what to make of them."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping

from klinecast.report.data import Honesty, ReportData
from klinecast.report.labels import Kind, number, shortened, text
from klinecast.report.page import facts

_FEES = ("taker_fee_bps", "maker_fee_bps", "fixed_fee")
_FEW_TRADES = 30


def honesty_warnings(data: ReportData) -> list[str]:
    """Return what makes the result look better than it may be, most serious first; plain text."""
    return [*_of_costs(data), *_of_fills(data), *_of_klines(data.honesty, data), *_of_the_end(data)]


def honesty_box(data: ReportData) -> str:
    """Return the warnings and the facts behind them as HTML."""
    warnings = honesty_warnings(data)
    if warnings:
        items = "".join(f"<li>{html.escape(one)}</li>" for one in warnings)
        said = f'<ul class="warnings">{items}</ul>'
    else:
        unsure = "what is ambiguous made no difference" if data.honesty.ambiguous_klines else "no kline was ambiguous"
        said = f'<p class="fine">Nothing found: costs are charged, {unsure}, none is missing.</p>'
    return f'{said}<div class="pair">{facts(_of_simulation(data.honesty))}{facts(_of_money(data))}</div>'


def _of_costs(data: ReportData) -> Iterator[str]:
    execution = data.execution
    fees = [_amount(execution, name) for name in _FEES]
    slips = _amount(execution, "slippage_bps") > 0
    if min(fees) < 0:
        yield "A fee below 0 is configured: trading earns money."
    if not any(fees) and not slips:
        yield "No fees and no slippage are configured: every trade is free, as it is nowhere."
    elif not any(fees):
        yield "No fees are configured: only slippage is charged."
    elif not slips:
        yield "No slippage is configured: market orders of any size fill at the price of the kline."


def _of_fills(data: ReportData) -> Iterator[str]:
    execution = data.execution
    if execution.get("fill_timing") == "THIS_CLOSE":
        yield "Orders fill at the close they were decided with, a price that is gone by the time it is known."
    if execution.get("gap_policy") == "AT_LEVEL":
        yield "Stops fill at their level also where a kline opened beyond it."
    if execution.get("missing_funding") == "ZERO" and execution.get("market_type") not in (None, "SPOT"):
        yield "Funding that is not on record counts as 0."


def _of_klines(honesty: Honesty, data: ReportData) -> Iterator[str]:
    low, high = honesty.total_return_stop_first, honesty.total_return_target_first
    if honesty.ambiguous_klines and low != high:
        reached, worst, best = (number(one, Kind.PERCENT) for one in (data.statistics.get("total_return"), low, high))
        yield (
            f"In {_counted(honesty.ambiguous_klines, 'kline')} stop and target were both touched, and which came first "
            f"is not known: the total return is {reached}, {worst} if it was always the stop, {best} if the target."
        )
    if honesty.klines_missing:
        yield (
            f"{_counted(honesty.klines_missing, 'kline is', 'klines are')} missing, in "
            f"{_counted(honesty.gaps_crossed, 'gap')}: no stop could act there, and what prices did was not seen."
        )


def _of_the_end(data: ReportData) -> Iterator[str]:
    opened = data.honesty.open_positions
    if opened:
        profit = sum(one.get("profit", 0.0) for one in opened.values())
        yield (
            f"{_counted(len(opened), 'position is', 'positions are')} open at the end: {number(profit, Kind.MONEY)} of "
            "the final equity is profit on paper, and what closing costs is not taken off."
        )
    count = data.statistics.get("trade_count", 0.0)
    if 0 < count < _FEW_TRADES:
        yield f"Only {_counted(int(count), 'closed trade')}: too few to tell skill from luck."


def _of_simulation(honesty: Honesty) -> dict[str, object]:
    return {
        "ambiguous klines": f"{honesty.ambiguous_klines:,}",
        "resolved by finer klines": f"{honesty.resolved_klines:,}",
        "total return, stop first": number(honesty.total_return_stop_first, Kind.PERCENT),
        "total return, target first": number(honesty.total_return_target_first, Kind.PERCENT),
        "gaps crossed": f"{honesty.gaps_crossed:,}",
        "klines missing": f"{honesty.klines_missing:,}",
    }


def _of_money(data: ReportData) -> dict[str, object]:
    paid: dict[str, object] = {
        f"{name} paid": number(data.statistics.get(f"total_{name}"), Kind.MONEY)
        for name in ("fees", "slippage", "funding")
    }
    return paid | {
        "open position": _by_series({name: text(one) for name, one in data.honesty.open_positions.items()}) or "none",
        "pending target": _by_series({name: text(one) for name, one in data.honesty.pending_targets.items()}) or "none",
    }


def _by_series(texts: Mapping[str, str]) -> str:
    if len(texts) == 1:
        return next(iter(texts.values()))
    return shortened("; ".join(f"{name}: {one}" for name, one in texts.items()))


def _amount(execution: Mapping[str, object], name: str) -> float:
    value = execution.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
