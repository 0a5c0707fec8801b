"""freqtrade's published values of opening and closing: fees of each side, shorts, funding fees, leveraged ratios."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from services.backtest.engine import ExecutionModel, FundingColumns, KlineColumns, Outcome, Signals, simulate
from tests.unit.backtest.oracles.published import Case, cases_of, document, parametrize, require_counts

FILE = "freqtrade_fees_pnl.json"
TABLES = ("open_trade_value", "close_trade_value", "profit", "open_close")
AMOUNT, OPEN_RATE, FEE = 30.0, 2.0, 0.0025
CASH, HOUR_MS = 1_000.0, 3_600_000
MARK = 4.0


def why_out_of_scope(row: dict[str, Any]) -> str | None:
    """Borrowing has a price where there is something borrowed: by a short, or beyond one's own stake."""
    borrows = row.get("trading_mode") == "margin" and (row["is_short"] or row["lev"] > 1)
    return "margin interest" if borrows else None


def name_of(table: str, at: int, row: dict[str, Any]) -> str:
    parts = [row.get("exchange"), row.get("trading_mode"), "short" if row["is_short"] else "long"]
    return "-".join([table, str(at), *(str(part) for part in parts if part)])


def make_cases(found: dict[str, Any]) -> list[Case]:
    rows = [(table, at, row) for table in TABLES for at, row in enumerate(found[table])]
    return [Case(name_of(*one), (one[0], one[2]), why_out_of_scope(one[2])) for one in rows]


CASES = cases_of(FILE, make_cases)


def run(row: dict[str, Any], open_rate: float, close_rate: float, fee_open: float, fee_close: float) -> Outcome:
    """Open by a limit order (maker fee) in kline 1; pay funding, then close at the market (taker fee) in kline 2."""
    side, funding_fees = -1.0 if row["is_short"] else 1.0, row.get("funding_fees", 0.0)
    prices = np.array([open_rate, open_rate, close_rate])
    klines = KlineColumns(HOUR_MS * np.arange(3), *[prices] * 4, np.ones(3))
    perpetual = row.get("trading_mode") == "futures"
    execution = ExecutionModel(
        market_type="LINEAR_PERPETUAL" if perpetual else "SPOT", max_leverage=row.get("lev", 1.0) if perpetual else 1.0,
        target_unit="QUANTITY", allow_short=True, maker_fee_bps=1e4 * fee_open, taker_fee_bps=1e4 * fee_close,
    )  # fmt: skip
    target, limit = np.array([side * AMOUNT, 0.0, math.nan]), np.array([open_rate, math.nan, math.nan])
    records = FundingColumns([0, 2 * HOUR_MS], [0.0, -funding_fees / (side * AMOUNT * MARK)], [math.nan, MARK])
    return simulate(klines, Signals(target, limit_price=limit), execution, CASH, funding=records if perpetual else None)


def values(outcome: Outcome, row: dict[str, Any]) -> dict[str, float]:
    """Return freqtrade's numbers of the one trade: what opening and closing cost or brought, fees and funding in it."""
    opened, closed = outcome.fills
    (trade,) = outcome.trades
    side = float(trade["side"])
    open_value = opened["quantity"] * opened["price"] + side * opened["fee"]
    close_value = closed["quantity"] * closed["price"] - side * (closed["fee"] + trade["funding"])
    ratio = side * (close_value / open_value - 1.0) * row.get("lev", 1.0)
    assert outcome.cash - CASH == pytest.approx(trade["profit"])
    return {"open_value": open_value, "close_value": close_value, "profit": trade["profit"], "profit_ratio": ratio}


@parametrize(CASES)
def test_a_trade_has_the_published_values(case: Case) -> None:
    table, row = case.given
    if table == "open_trade_value":
        found = values(run(row, OPEN_RATE, OPEN_RATE, row["fee_rate"], FEE), row)
        assert found["open_value"] == pytest.approx(row["result"])
    elif table == "close_trade_value":
        found = values(run(row, row["open_rate"], row["close_rate"], FEE, row["fee_rate"]), row)
        assert found["close_value"] == pytest.approx(row["result"])
    elif table == "profit":
        found = values(run(row, OPEN_RATE, row["close_rate"], FEE, row["fee_close"]), row)
        assert {name: found[name] for name in ("profit", "profit_ratio")} == pytest.approx(
            {name: row[name] for name in ("profit", "profit_ratio")}
        )
    else:
        rates = (2.2, 2.0) if row["is_short"] else (2.0, 2.2)
        names = ("open_value", "close_value", "profit", "profit_ratio")
        assert values(run(row, *rates, FEE, FEE), row) == pytest.approx({name: row[name] for name in names})


def test_no_case_was_lost() -> None:
    require_counts(FILE, CASES)
    found = document(FILE)
    assert found is not None
    assert len(CASES) == sum(len(found[table]) for table in TABLES)
    common = found["common"]
    assert (common["amount"], common["open_rate"]) == (AMOUNT, OPEN_RATE)
