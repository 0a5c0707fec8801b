"""freqtrade's published candle tables: entries at the next open, stops, targets, trailing, shorts, leverage, limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from services.backtest.engine import ExecutionModel, FillReason, KlineColumns, Outcome, Signals, simulate
from tests.unit.backtest.oracles.published import Case, cases_of, document, parametrize, require_counts

FILE = "freqtrade_backtest_detail.json"
HOUR_MS = 3_600_000
QUANTITY, CASH = 1.0, 1_000_000.0
"""The stake is fixed: shorts and losses never meet what cash pays."""
REASONS = {
    "exit_signal": FillReason.SIGNAL,
    "force_exit": FillReason.SIGNAL,
    "stop_loss": FillReason.STOP_LOSS,
    "roi": FillReason.TAKE_PROFIT,
    "trailing_stop_loss": FillReason.TRAILING_STOP,
}
KNOWN = {
    "stop_loss", "roi", "use_exit_signal", "leverage", "trailing_stop", "trailing_only_offset_is_reached",
    "trailing_stop_positive_offset", "trailing_stop_positive", "use_custom_stoploss", "custom_entry_price",
    "custom_exit_price", "adjust_entry_price", "timeout",
}  # fmt: skip


def side_of(case: dict[str, Any]) -> float:
    """Return the one side a table trades: +1 long, -1 short."""
    return -1.0 if any(bar["enter_short"] for bar in case["bars"]) else 1.0


def why_out_of_scope(case: dict[str, Any]) -> str | None:
    """Name the setting that the execution model does not have."""
    settings, bars, side = case["settings"], case["bars"], side_of(case)
    assert set(settings) <= KNOWN
    if set(settings["roi"]) - {"0"}:
        return "ROI steps by time"
    if trails_from_offset(case):
        return "a trailing stop that begins at an offset, inside the kline that reaches it"
    if settings.get("adjust_entry_price") is not None:
        return "adjust_entry_price: custom prices beyond a limit entry"
    entry, extreme = settings.get("custom_entry_price"), "high" if side > 0 else "low"
    if entry is not None and all(side * entry > side * bar[extreme] for bar in bars):
        return "custom_entry_price beyond the market, moved into the kline: custom prices beyond a limit entry"
    if "custom_exit_price" in settings and is_reached(case, settings["custom_exit_price"]):
        return "custom_exit_price, moved into the kline: custom prices beyond a limit entry"
    return None


def is_reached(case: dict[str, Any], price: float) -> bool:
    """Tell whether a limit order that closes at a price could fill in any kline."""
    return any(bar["high"] >= price if side_of(case) > 0 else bar["low"] <= price for bar in case["bars"])


def trails_from_offset(case: dict[str, Any]) -> bool:
    """Tell whether a trailing stop waits for an offset that is reached before the target ends the trade."""
    settings, side = case["settings"], side_of(case)
    offset = settings.get("trailing_stop_positive_offset", 0.0)
    if not settings.get("trailing_stop") or offset == 0.0:
        return False
    entry = case["bars"][1]["open"]
    best = max(bar["high"] if side > 0 else -bar["low"] for bar in case["bars"][1:])
    reached = best >= side * entry * (1.0 + side * offset)
    return reached and not settings["roi"].get("0", math.inf) <= offset


def trailing_distance(case: dict[str, Any]) -> float:
    """Return how far a trailing stop follows where its offset is never reached; NaN = not at all."""
    settings = case["settings"]
    if not settings.get("trailing_stop") or settings.get("trailing_only_offset_is_reached"):
        return math.nan
    closer = None if settings.get("trailing_stop_positive_offset") else settings.get("trailing_stop_positive")
    return -settings["stop_loss"] if closer is None else closer


def prepare(case: dict[str, Any]) -> tuple[KlineColumns, Signals, ExecutionModel]:
    """Return a table as klines, targets and protective distances; a stop of a leveraged stake is stop / leverage."""
    bars, settings, side = case["bars"], case["settings"], side_of(case)
    rows = [[bar[name] for bar in bars] for name in ("open", "high", "low", "close", "volume")]
    klines = KlineColumns(HOUR_MS * np.array([bar["tick"] for bar in bars]), *rows)
    entered, left = ("enter_long", "exit_long") if side > 0 else ("enter_short", "exit_short")
    opposite = "enter_short" if side > 0 else "enter_long"
    exits = settings.get("use_exit_signal", False) and "custom_exit_price" not in settings
    target = np.full(len(bars), math.nan)
    for i, bar in enumerate(bars):
        if bar[entered] and not (bar[left] or bar[opposite]):
            target[i] = side * QUANTITY
        elif bar[left] and not bar[entered] and exits:
            target[i] = 0.0
    leverage = settings.get("leverage", 1.0)
    limit = np.full(len(bars), settings.get("custom_entry_price", math.nan))
    signals = Signals(
        target,
        stop_loss=np.full(len(bars), -settings["stop_loss"] / leverage),
        take_profit=np.full(len(bars), settings["roi"].get("0", math.nan) / leverage),
        trailing_stop=np.full(len(bars), trailing_distance(case) / leverage),
        limit_price=np.where(np.abs(target) > 0.0, limit, math.nan),
    )
    execution = ExecutionModel(
        target_unit="QUANTITY", allow_short=True, gap_policy="AT_LEVEL", reentry="NEXT_DECISION", taker_fee_bps=0.0
    )
    return klines, signals, execution


def run(case: dict[str, Any]) -> Outcome:
    """Simulate a table; what the last kline leaves open freqtrade exits at that kline's open: a target 0 before it."""
    klines, signals, execution = prepare(case)
    outcome = simulate(klines, signals, execution, CASH)
    if outcome.quantity != 0.0:
        target, limit = signals.target_exposure.copy(), signals.limit_price.copy()
        target[-2], limit[-2] = 0.0, math.nan
        signals = replace(signals, target_exposure=target, limit_price=limit)
        outcome = simulate(klines, signals, execution, CASH)
    return outcome


def ratios(outcome: Outcome, leverage: float) -> np.ndarray:
    trades = outcome.trades
    return leverage * trades["profit"] / (trades["quantity"] * trades["entry_price"])


CASES = cases_of(FILE, lambda found: [Case(row["id"], row, why_out_of_scope(row)) for row in found["cases"]])


@parametrize(CASES)
def test_a_candle_table_gives_the_published_trades(case: Case) -> None:
    expected, outcome = case.given["expected"], run(case.given)
    assert len(outcome.trades) == expected["n_trades"]
    assert round(ratios(outcome, case.given["settings"].get("leverage", 1.0)).sum(), 3) == expected["sum_profit_ratio"]
    for trade, want in zip(outcome.trades, expected["trades"], strict=True):
        assert (trade["entry_index"], trade["exit_index"]) == (want["open_tick"], want["close_tick"])
        assert trade["exit_reason"] == REASONS[want["exit_reason"]]
        assert trade["side"] == (-1 if want.get("is_short") else 1)


def test_no_case_was_lost() -> None:
    require_counts(FILE, CASES)
    found = document(FILE)
    assert found is not None
    assert len(CASES) == len(found["cases"])
