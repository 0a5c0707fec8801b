"""vectorbt's settings in terms of the execution model: fills at the close, sizes as targets, stops of a fill price."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from services.backtest.engine import ExecutionModel, KlineColumns, Outcome, Signals, simulate
from tests.unit.backtest.oracles.published import number

DAY_MS = 86_400_000
CASH = 100.0
RICH = 10_000.0
"""vectorbt goes on where equity is gone. Where size does not depend on cash, the account gets more of it instead."""
ALL_IN = 1e9
"""More units than any account here can pay: cut to what it can."""
ENTRY_REFERENCES = {"fillprice", "price", "close", "val_price"}

Order = tuple[int, str, float, float, float]


class Run(NamedTuple):
    """What simulate needs for a scenario."""

    klines: KlineColumns
    signals: Signals
    execution: ExecutionModel
    cash: float

    def simulate(self) -> Outcome:
        return simulate(self.klines, self.signals, self.execution, self.cash)


def orders_of(outcome: Outcome) -> list[Order]:
    """Return fills as vectorbt's orders: a reversal, two fills at one price, is one order."""
    found: list[Order] = []
    for fill in outcome.fills:
        side = "buy" if fill["side"] > 0 else "sell"
        index, quantity, price, fee = (fill[name].item() for name in ("kline_index", "quantity", "price", "fee"))
        if found and found[-1][:2] == (index, side) and found[-1][3] == price:
            _, _, earlier, _, paid = found.pop()
            quantity, fee = quantity + earlier, fee + paid
        found.append((index, side, quantity, price, fee))
    return found


def why_out_of_scope(scenario: dict[str, Any]) -> str | None:
    """Name the feature of a scenario that the execution model does not have."""
    given, expected = scenario["input"], scenario["expected_orders"]
    if given.get("accumulate") not in (None, "disabled"):
        return f"accumulate={given['accumulate']}"
    if "upon_long_conflict" in given:
        return "conflict switch upon_long_conflict"
    if given.get("stop_exit_price") in ("close", "price"):
        return f"stop_exit_price={given['stop_exit_price']}: a stop that exits elsewhere than at the stop"
    if str(given.get("upon_stop_exit")).startswith("reverse"):
        return f"upon_stop_exit={given['upon_stop_exit']}: a stop that opens the other side"
    if given.get("size_type") == "percent" and scenario["call"].endswith("orders") and len(expected) > 1:
        return "percent size type: a share of free cash on top of a position"
    if covers_partly(scenario):
        return "partial short cover: vectorbt goes on without equity and buys back what cash pays"
    reverses = any(abs(row["size"]) > abs(held) > 0 > held * signed(row) for row, held in positions(expected))
    if reverses and float(given.get("fixed_fees", 0)) > 0:
        return "one fixed fee for a reversal: here it is two fills, each with its fee"
    return None


def signed(row: dict[str, Any]) -> float:
    """Return the size of an order, negative for a sale."""
    return row["size"] if row["side"] == "buy" else -row["size"]


def positions(expected: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Return each order with the position before it."""
    held = 0.0
    for row in expected:
        yield row, held
        held += signed(row)


def covers_partly(scenario: dict[str, Any]) -> bool:
    """Tell whether an order or signal that should buy back a short as a whole buys back less."""
    given = scenario["input"]
    asked = np.broadcast_to(
        [abs(number(size)) for size in np.atleast_1d(given.get("size", "inf"))], len(given["close"])
    )
    for row, held in positions(scenario["expected_orders"]):
        whole = scenario["call"].endswith("signals") or asked[row["idx"]] >= abs(held)
        targeted = str(given.get("size_type")).startswith(("target", "value"))
        if whole and not targeted and row["side"] == "buy" and held + row["size"] < -1e-9:
            return True
    return False


def prepare(scenario: dict[str, Any]) -> Run:
    """Return a scenario as a run of the engine."""
    given = scenario["input"]
    return prepare_orders(given) if scenario["call"].endswith("orders") else prepare_signals(given)


def rates(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the execution model for fees, slippage and rounding."""
    sizes = [abs(number(size)) for size in np.atleast_1d(given.get("size", "inf"))]
    least = float(given.get("min_size", 0))
    # A smallest size is a step where sizes are below it or multiples of it.
    assert not least or all(not size >= least or size % least == 0 for size in sizes)
    return {
        "fill_timing": "THIS_CLOSE",
        "reentry": "NEXT_DECISION",
        "allow_short": True,
        "taker_fee_bps": 1e4 * float(given.get("fees", 0)),
        "fixed_fee": float(given.get("fixed_fees", 0)),
        "slippage_bps": 1e4 * float(given.get("slippage", 0)),
        "step_size": float(given.get("size_granularity", 0)) or least,
    }


def as_klines(given: dict[str, Any]) -> tuple[KlineColumns, np.ndarray]:
    """Return klines whose close is the price of orders, and in which of them orders have a price.

    Without a price (NaN) the last one stays, which changes no value.
    """
    close = np.array([number(price) for price in given["close"]])
    n = len(close)
    price = given.get("price", "inf")
    if price == "-inf":  # the open: without one, the close before
        close = np.concatenate([[math.nan], close[:-1]])
    elif isinstance(price, list):
        close = np.array(price, float)
    priced = np.isfinite(close)
    filled = close[priced][np.maximum(np.cumsum(priced) - 1, 0)]
    return KlineColumns(DAY_MS * np.arange(n), filled, filled, filled, filled, np.ones(n)), priced


def prepare_orders(given: dict[str, Any]) -> Run:
    """Return orders as targets; a delta is added to what is held, kline after kline."""
    klines, priced = as_klines(given)
    kind = given.get("size_type", "amount")
    targeted = kind.startswith("target") or kind == "percent"
    unit = {"targetvalue": "NOTIONAL", "targetpercent": "EXPOSURE", "percent": "EXPOSURE"}.get(kind, "QUANTITY")
    rebalance = "EVERY_KLINE" if kind in ("targetvalue", "targetpercent") else "ON_CHANGE"
    execution = ExecutionModel(target_unit=unit, rebalance=rebalance, **rates(given))
    cash = RICH if kind in ("targetamount", "targetvalue") else CASH
    sizes = np.broadcast_to([number(size) for size in np.atleast_1d(given["size"])], len(klines))
    most = number(given.get("max_size", "inf"))
    sign = -1.0 if given["direction"] == "shortonly" else 1.0
    targets, state, held = np.full(len(klines), math.nan), None, 0.0
    for i, size in enumerate(sizes):
        if priced[i] and not math.isnan(size):
            change = sign * math.copysign(min(abs(size), most, ALL_IN), size)
            change /= klines.close[i] if kind == "value" else 1.0
            targets[i] = within(given["direction"], change if targeted else nearly(held + change))
        outcome = simulate(klines.slice(i, i + 1), Signals(targets[i : i + 1]), execution, cash, state=state)
        state, held = outcome.state, outcome.quantity
    return Run(klines, Signals(targets), execution, cash)


def within(direction: str, target: float) -> float:
    """Return a target on the sides that a direction allows."""
    return max(target, 0.0) if direction == "longonly" else min(target, 0.0) if direction == "shortonly" else target


def nearly(target: float) -> float:
    """Return a target without the rounding error of adding up: what is left of nothing is nothing."""
    return 0.0 if abs(target) < 1e-12 else target


def prepare_signals(given: dict[str, Any]) -> Run:
    """Return entries and exits as targets, stops as distances from the fill price."""
    sides = list(sides_of(given))
    stops = {name: column(given[name], len(sides)) for name in ("sl_stop", "tp_stop", "ts_stop") if name in given}
    size, kind = number(given.get("size", "inf")), given.get("size_type", "amount")
    unit = "EXPOSURE" if math.isinf(size) else {"amount": "QUANTITY", "value": "NOTIONAL"}.get(kind, "EXPOSURE")
    cash, size = CASH, min(size, 1.0) if unit == "EXPOSURE" else size
    if given["direction"] == "shortonly" and unit == "EXPOSURE":
        unit, size, cash = "NOTIONAL", size * CASH, RICH
    klines, priced = as_klines(given)
    fields = rates(given) | {"target_unit": unit}
    distances: dict[str, np.ndarray] = {}
    if stops:
        klines, distances = with_stops(given, stops, klines, fields)
    target = size * np.where(priced, sides, math.nan)
    return Run(klines, Signals(target, **distances), ExecutionModel(**fields), cash)


def sides_of(given: dict[str, Any]) -> Iterator[float]:
    """Return the side that is wanted after each kline, NaN = no decision."""
    direction, upon = given["direction"], given.get("upon_opposite_entry", "reverse")
    side, n = 0.0, len(given["close"])
    opening, closing = (-1.0, 0.0) if direction == "shortonly" else (1.0, 0.0 if direction == "longonly" else -1.0)
    for entered, left in zip(*(np.broadcast_to(given[name], n) for name in ("entries", "exits")), strict=True):
        wanted = math.nan if entered == left else opening if entered else closing
        if side * wanted < 0.0 and upon != "reverse" and upon != "reversereduce":
            wanted = math.nan if upon == "ignore" else 0.0
        side = side if math.isnan(wanted) else wanted
        yield wanted


def column(values: Any, n: int) -> np.ndarray:
    """Return distances; what is no distance (infinite) as NaN."""
    found = np.broadcast_to([number(value) for value in np.atleast_1d(values)], n).copy()
    found[~np.isfinite(found)] = math.nan
    return found


def with_stops(
    given: dict[str, Any], stops: dict[str, np.ndarray], filled: KlineColumns, fields: dict[str, Any]
) -> tuple[KlineColumns, dict[str, np.ndarray]]:
    """Return the klines as they are but for the entry's price, and the stops as distances from it.

    A stop-limit exits without slippage: that of the entry is then part of its price.
    """
    close = np.array(given["close"], float)
    rows = [np.array(given.get(name, close), float) for name in ("open", "high", "low")]
    entries = np.broadcast_to(given["entries"], len(close))
    sign = -1.0 if given["direction"] == "shortonly" else 1.0
    fill = filled.close * (1.0 + sign * fields["slippage_bps"] / 1e4)
    if given.get("stop_exit_price") != "stopmarket":
        fields["slippage_bps"] = 0.0
    price = fill if fields["slippage_bps"] == 0.0 else filled.close
    references = {"fillprice": fill, "price": filled.close, "val_price": np.array(given.get("val_price", close), float)}
    reference = references.get(given.get("stop_entry_price", "close"), close)
    klines = KlineColumns(filled.open_time_ms, *rows, np.where(entries, price, close), filled.volume)
    distances = {}
    for name, away in stops.items():
        trails = name == "ts_stop" or (name == "sl_stop" and given.get("sl_trail"))
        label = "trailing_stop" if trails else {"sl_stop": "stop_loss", "tp_stop": "take_profit"}[name]
        direction = sign if label == "take_profit" else -sign
        level = reference * (1.0 + direction * away)
        moved = direction * (level / fill - 1.0) * (1.0 - 1e-14)  # as far away, but reached by a price equal to it
        distances[label] = np.where(fill == reference, away, moved)
    return klines, distances
