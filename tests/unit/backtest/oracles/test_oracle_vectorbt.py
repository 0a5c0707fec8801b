"""vectorbt's published orders, single executions and portfolio: fills at the close, sizes, fees, stops, accounts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from services.backtest.engine import ExecutionModel, KlineColumns, Outcome, Signals, simulate
from services.backtest.engine import statistics as stats
from services.backtest.engine.ratios import geometric_annual_return
from services.backtest.engine.statistics import StatisticsConvention, compute_statistics
from tests.unit.backtest.oracles import vectorbt_adapter as adapter
from tests.unit.backtest.oracles.published import Case, cases_of, document, number, parametrize, require_counts

FILE = "vectorbt.json"
RELATIVE, ABSOLUTE = 1e-7, 1e-9
"""Some of the numbers have eight digits."""


def scenario_cases(found: dict[str, Any]) -> list[Case]:
    names = (f"{i}-{row['test'].rsplit('::')[-1]}-{row['col']}" for i, row in enumerate(found["order_scenarios"]))
    rows = zip(names, found["order_scenarios"], strict=True)
    return [Case(name, row, adapter.why_out_of_scope(row)) for name, row in rows]


def single_cases(found: dict[str, Any]) -> list[Case]:
    return [Case(f"line-{row['line']}", row, why_single_out_of_scope(row)) for row in found["single_order_execution"]]


def why_single_out_of_scope(row: dict[str, Any]) -> str | None:
    before, order = row["before"], row["order"]
    if "nan" in (before["value"], before["val_price"]):
        return "a value or valuation price that is NaN"
    if "reject_prob" in order:
        return "reject: orders refused at random"
    if "lock_cash" in order:
        return "lock_cash: an account part of whose cash is not free"
    held = before["position"]
    if held < 0 and before["cash"] + held * before["val_price"] <= 0:
        return "a short in an account without equity, which is ruin here"
    if order.get("size_type") == "Percent" and held * order["size"] < 0:
        return "percent size type: a share of free cash on top of a position"
    return None


SCENARIOS, SINGLES = cases_of(FILE, scenario_cases), cases_of(FILE, single_cases)


def close_to(expected: Any) -> Any:
    return pytest.approx(expected, rel=RELATIVE, abs=ABSOLUTE, nan_ok=True)


@parametrize(SCENARIOS)
def test_a_scenario_gives_the_published_orders(case: Case) -> None:
    expected = [(r["idx"], r["side"], r["size"], r["price"], r["fees"]) for r in case.given["expected_orders"]]
    found = adapter.orders_of(adapter.prepare(case.given).simulate())
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for got, want in zip(found, expected, strict=True):
        assert got[2:] == close_to(want[2:])


@parametrize(SINGLES)
def test_a_single_order_is_executed_as_published(case: Case) -> None:
    before, order, after = (case.given[name] for name in ("before", "order", "after"))
    held, price = before["position"], order["price"]
    outcome, more = execute(before, order)
    expected = case.given.get("result", {"side": None})
    fills = adapter.orders_of(outcome)[1 if held else 0 :]
    assert [row[1] for row in fills] == ([] if expected["side"] is None else [expected["side"]])
    for _, _, *got in fills:
        assert got == close_to([expected["size"], expected["price"], expected["fees"]])
    assert (outcome.cash - more, outcome.quantity) == close_to((after["cash"], after["position"]))
    assert outcome.equity[-1] - more == close_to(after["cash"] + after["position"] * price)


def execute(before: dict[str, Any], order: dict[str, Any]) -> tuple[Outcome, float]:
    """Buy what is held before the order, then execute it; return the outcome and how much more cash the account got."""
    held, value_price, kind = before["position"], before["val_price"], order.get("size_type", "Amount")
    size = math.copysign(min(abs(number(order["size"])), adapter.ALL_IN), number(order["size"]))
    unit = {"Amount": "QUANTITY", "TargetAmount": "QUANTITY", "Value": "NOTIONAL", "TargetValue": "NOTIONAL"}.get(
        kind, "EXPOSURE"
    )
    sold_short = unit == "QUANTITY" and -adapter.ALL_IN < size < 0 and held + size < 0
    more = adapter.RICH if sold_short and order.get("direction") != "LongOnly" else 0.0
    cash = before["cash"] + held * value_price + more
    first = held * {"QUANTITY": 1.0, "NOTIONAL": value_price}.get(unit, value_price / cash)
    change = size * (before["cash"] / cash if kind == "Percent" else 1.0)
    target = size if kind.startswith("Target") else first + change
    target = max(target, 0.0) if order.get("direction") == "LongOnly" else target
    rows = [(value_price, first), (order["price"], target)] if held else [(order["price"], target)]
    prices, targets = np.array(rows, float).T
    klines = KlineColumns(adapter.DAY_MS * np.arange(len(rows)), *[prices] * 4, np.ones(len(rows)))
    execution = ExecutionModel(**adapter.rates(order), target_unit=unit)
    cash += len(rows[1:]) * execution.fixed_fee
    return simulate(klines, Signals(targets), execution, cash), more


TABLES = ("orders", "account", "totals", "positions", "entry_trades", "exit_trades", "drawdowns", "statistics")
COLUMNS = ("a", "b", "c")


def portfolio_cases(found: dict[str, Any]) -> list[Case]:
    portfolio = found["portfolio_example"]
    cases = []
    for table in TABLES:
        for at, label in enumerate(COLUMNS):
            rows = [row for row in portfolio.get(table, []) if row["col"] == at]
            apart = table.endswith("trades") and rows != [row for row in portfolio["positions"] if row["col"] == at]
            reason = "trades per order or per exit: here a trade runs from flat to flat" if apart else None
            cases.append(Case(f"{table}-{label}", (portfolio, table, at), reason))
    return [*cases, Case("returns_stats-a", (portfolio, "returns_stats", 0))]


PORTFOLIO = cases_of(FILE, portfolio_cases)


@parametrize(PORTFOLIO)
def test_the_portfolio_is_as_published(case: Case) -> None:
    portfolio, table, at = case.given
    label, given = COLUMNS[at], portfolio["input"]
    names = ("size", "fees", "fixed_fees", "slippage")
    run = adapter.prepare_orders(
        {name: given[name] for name in names} | {"close": given["close"][label], "direction": given["direction"][label]}
    )
    outcome = run.simulate()
    if table in ("orders", "positions", "entry_trades", "exit_trades", "drawdowns"):
        rows = [row for row in portfolio[table] if row["col"] == at]
        compare = compare_orders if table == "orders" else compare_drawdowns if table == "drawdowns" else compare_trades
        compare(outcome, rows)
    elif table == "account":
        compare_account(outcome, run.klines, {name: portfolio[name][label] for name in ACCOUNT})
    elif table == "totals":
        totals = [portfolio[name][label] for name in ("total_profit", "final_value", "total_return")]
        final = outcome.equity[-1]
        assert [final - adapter.CASH, final, final / adapter.CASH - 1.0] == close_to(totals)
    elif table == "statistics":
        compare_statistics(outcome, run.klines, portfolio["stats_all"][label])
    else:
        assert portfolio["stats_a"] == portfolio["stats_all"]["a"]
        compare_returns_statistics(outcome, run.klines, portfolio["returns_stats_a"])


ACCOUNT = ("value", "cash", "asset_value", "returns")


def compare_orders(outcome: Outcome, rows: list[dict[str, Any]]) -> None:
    expected = [(row["idx"], row["side"], row["size"], row["price"], row["fees"]) for row in rows]
    found = adapter.orders_of(outcome)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2:] for row in found] == [close_to(row[2:]) for row in expected]


def compare_trades(outcome: Outcome, rows: list[dict[str, Any]]) -> None:
    assert len(outcome.trades) == len(rows)
    for trade, row in zip(outcome.trades, rows, strict=True):
        exit_index = row["exit_idx"] if row["status"] == "closed" else -1
        assert (trade["entry_index"], trade["exit_index"]) == (row["entry_idx"], exit_index)
        assert trade["side"] == (1 if row["direction"] == "long" else -1)
        found = [trade[name] for name in ("quantity", "entry_price", "exit_price", "fees", "profit")]
        fees = row["entry_fees"] + row["exit_fees"]
        assert found == close_to([row["size"], row["entry_price"], row["exit_price"], fees, row["pnl"]])
        assert trade["profit"] / (trade["quantity"] * trade["entry_price"]) == close_to(row["return"])


def compare_drawdowns(outcome: Outcome, rows: list[dict[str, Any]]) -> None:
    """vectorbt's first peak is the first value, not the cash before it; its durations need that peak's kline."""
    worst = min(row["valley_val"] / row["peak_val"] - 1.0 for row in rows)
    assert stats.max_drawdown(outcome.equity[1:], outcome.equity[0]) == close_to(worst)
    for row in rows:
        places = [row["peak_idx"], row["valley_idx"], row["end_idx"]]
        assert list(outcome.equity[places]) == close_to([row["peak_val"], row["valley_val"], row["end_val"]])


def compare_account(outcome: Outcome, klines: KlineColumns, expected: dict[str, list[float]]) -> None:
    held, cash = np.zeros(len(klines)), np.full(len(klines), adapter.CASH)
    for fill in outcome.fills:
        at, signed = fill["kline_index"], fill["side"] * fill["quantity"]
        held[at:] += signed
        cash[at:] -= signed * fill["price"] + fill["fee"]
    assert (held[-1], cash[-1]) == close_to((outcome.quantity, outcome.cash))
    assert list(outcome.equity) == close_to(expected["value"])
    assert list(cash) == close_to(expected["cash"])
    assert list(held * klines.close) == close_to(expected["asset_value"])
    returns = np.diff(outcome.equity, prepend=adapter.CASH) / np.concatenate([[adapter.CASH], outcome.equity[:-1]])
    assert list(returns) == close_to(expected["returns"])


def compare_statistics(outcome: Outcome, klines: KlineColumns, expected: dict[str, Any]) -> None:
    found = compute_statistics(outcome, klines, "1d", StatisticsConvention())
    names = {"total_return": "Total Return [%]", "buy_and_hold_return": "Benchmark Return [%]"}
    assert {name: 100 * found[name] for name in names} == close_to({name: expected[names[name]] for name in names})
    names = {"total_fees": "Total Fees Paid", "sharpe": "Sharpe Ratio", "sortino": "Sortino Ratio"}
    names |= {"omega": "Omega Ratio"}
    assert {name: found[name] for name in names} == close_to({name: expected[names[name]] for name in names})
    returns = outcome.equity / np.concatenate([[adapter.CASH], outcome.equity[:-1]]) - 1.0
    worst = stats.max_drawdown(outcome.equity[1:], outcome.equity[0])
    assert -100 * worst == close_to(expected["Max Drawdown [%]"])
    calmar = stats.calmar_ratio(geometric_annual_return(returns, 365), worst)
    assert calmar == close_to(expected["Calmar Ratio"])
    if expected["Total Trades"] == len(outcome.trades):
        compare_trade_statistics(found, expected)


def compare_trade_statistics(found: dict[str, float], expected: dict[str, Any]) -> None:
    names = {
        "trade_count": "Total Closed Trades", "open_trade_count": "Total Open Trades", "open_profit": "Open Trade PnL",
        "win_rate": "Win Rate [%]", "profit_factor": "Profit Factor", "expectancy": "Expectancy",
    }  # fmt: skip
    scale = {"win_rate": 100.0}
    assert {name: found[name] * scale.get(name, 1.0) for name in names} == close_to(
        {name: expected[names[name]] for name in names}
    )
    assert expected["Max Drawdown Duration"] == f"{found['max_drawdown_duration'] / 86_400:.0f} days 00:00:00"
    assert expected["Avg Losing Trade Duration"] == f"{found['average_trade_duration'] / 86_400:.0f} days 00:00:00"


def compare_returns_statistics(outcome: Outcome, klines: KlineColumns, expected: dict[str, Any]) -> None:
    """Skew, kurtosis, tail ratio and common sense ratio are no statistics here."""
    found = compute_statistics(outcome, klines, "1d", StatisticsConvention())
    names = {
        "annual_volatility": "Annualized Volatility [%]", "value_at_risk_95": "Value at Risk", "alpha": "Alpha",
        "beta": "Beta", "sharpe": "Sharpe Ratio", "sortino": "Sortino Ratio", "omega": "Omega Ratio",
    }  # fmt: skip
    scale = {"annual_volatility": 100.0}
    assert {name: found[name] * scale.get(name, 1.0) for name in names} == close_to(
        {name: expected[names[name]] for name in names}
    )
    returns = outcome.equity / np.concatenate([[adapter.CASH], outcome.equity[:-1]]) - 1.0
    assert 100 * geometric_annual_return(returns, 365) == close_to(expected["Annualized Return [%]"])


def test_no_case_was_lost() -> None:
    require_counts(FILE, [*SCENARIOS, *SINGLES, *PORTFOLIO])
    found = document(FILE)
    assert found is not None
    assert (len(SCENARIOS), len(SINGLES)) == (len(found["order_scenarios"]), len(found["single_order_execution"]))
