"""empyrical's published statistics of returns: with NaN, empty and of one row; its nan and inf are None here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.backtest.engine import ExecutionModel, KlineColumns, Outcome, Signals, simulate
from services.backtest.engine import statistics as stats
from services.backtest.engine.ratios import downside_deviation, geometric_annual_return
from tests.unit.backtest.oracles.published import Case, cases_of, document, number, parametrize, require_counts

FILE = "empyrical_stats.json"
DAY_MS = 86_400_000
YEAR_DAYS = 365.25
PERIODS = {"daily": 252, "weekly": 52, "monthly": 12, "yearly": 1}
FRAMES = {"df_simple": ("df_one", "df_two"), "df_week": ("df_one", "df_two"), "df_month": ("df_one", "df_two")}
ABSENT_FUNCTIONS = {
    "aggregate_returns": "returns by calendar month, quarter or year",
    "stability_of_timeseries": "stability of a series",
    "tail_ratio": "a tail ratio",
    "capture": "capture ratios",
    "up_capture": "capture ratios",
    "down_capture": "capture ratios",
    "up_down_capture": "capture ratios",
}

Args = dict[str, Any]
Found = float | None | list[float | None]


def series_of(given: Args | float) -> np.ndarray | float:
    """Return what an argument stands for: a number, given values, a series, its negative, its end."""
    if not isinstance(given, dict):
        return float(given)
    if "values" in given:
        return np.array([number(value) for value in given["values"]])
    found = document(FILE)
    assert found is not None
    name = given.get("series") or given["negated_series"]
    values = np.array([number(value) for value in found["series"][name]], float)
    return (-values if "negated_series" in given else values)[given.get("from_index", 0) :]


def returns_of(args: Args) -> np.ndarray:
    values = series_of(args["returns"])
    assert isinstance(values, np.ndarray)
    return values


def held(returns: np.ndarray) -> Outcome:
    """Return a run that holds all it has through these returns; a missing one is no change."""
    prices = 100.0 * np.cumprod(1 + np.nan_to_num(np.concatenate([[0.0], returns])))
    klines = KlineColumns(DAY_MS * np.arange(len(prices)), *[prices] * 4, np.ones(len(prices)))
    execution = ExecutionModel(taker_fee_bps=0.0, fill_timing="THIS_CLOSE")
    return simulate(klines, Signals(np.ones(len(prices))), execution, 100.0)


def worst_drawdown(returns: np.ndarray) -> float:
    outcome = held(returns)
    return stats.max_drawdown(outcome.equity, outcome.initial_cash)


def cumulative_returns(args: Args) -> Found:
    start = args["starting_value"]
    grown = held(returns_of(args)).equity[1:] / 100.0
    return list(grown * start if start else grown - 1.0)


def total_return(args: Args) -> Found:
    returns = returns_of(args)
    return held(returns).equity[-1] / 100.0 - 1.0 if len(returns) else None


def annual_return(args: Args) -> Found:
    return geometric_annual_return(returns_of(args), period(args))


def calmar(args: Args) -> Found:
    return stats.calmar_ratio(annual_return(args), worst_drawdown(returns_of(args)))


def cagr(args: Args) -> Found:
    returns = returns_of(args)
    days = len(returns) * YEAR_DAYS / period(args)
    return stats.cagr(held(returns).equity[-1], 100.0, days * DAY_MS)


def omega(args: Args) -> Found:
    """The required return is a year's; the risk-free rate a period's, or a series taken off."""
    required = (1 + args["required_return"]) ** (1 / 252) - 1
    return stats.omega_ratio(returns_of(args) - series_of(args["risk_free"]), threshold=required)


def sharpe(args: Args) -> Found:
    return stats.sharpe_ratio(returns_of(args) - series_of(args["risk_free"]), 252)


def sortino(args: Args) -> Found:
    required = series_of(args["required_return"])
    if isinstance(required, float):
        return stats.sortino_ratio(returns_of(args), period(args), risk_free_rate=required * period(args))
    return stats.sortino_ratio(returns_of(args) - required, period(args))


def downside_risk(args: Args) -> Found:
    deviation = downside_deviation(returns_of(args), series_of(args["required_return"]))
    return None if deviation is None else deviation * math.sqrt(period(args))


def excess_sharpe(args: Args) -> Found:
    """Sharpe of the active returns, not a year's."""
    return stats.sharpe_ratio(returns_of(args) - series_of(args["factor_returns"]), 1)


def paired(args: Args) -> tuple[np.ndarray, np.ndarray]:
    """Return both series where both have an entry, as pandas aligns them."""
    returns, benchmark = returns_of(args), series_of(args["benchmark"])
    assert isinstance(benchmark, np.ndarray)
    returns = returns[args["benchmark"].get("from_index", 0) :]
    length = min(len(returns), len(benchmark))
    return returns[:length], benchmark[:length]


def period(args: Args) -> int:
    return PERIODS[args.get("period", "daily")]


FUNCTIONS: dict[str, Callable[[Args], Found]] = {
    "cum_returns": cumulative_returns,
    "cum_returns_final": total_return,
    "max_drawdown": lambda args: worst_drawdown(returns_of(args)),
    "annual_return": annual_return,
    "annual_volatility": lambda args: stats.annual_volatility(returns_of(args), period(args)),
    "calmar_ratio": calmar,
    "omega_ratio": omega,
    "sharpe_ratio": sharpe,
    "downside_risk": downside_risk,
    "sortino_ratio": sortino,
    "excess_sharpe": excess_sharpe,
    "alpha_beta": lambda args: [stats.alpha(*paired(args), 252), stats.beta(*paired(args))],
    "alpha": lambda args: stats.alpha(*paired(args), 252),
    "beta": lambda args: stats.beta(*paired(args)),
    "cagr": cagr,
}


def make_cases(found: Args) -> list[Case]:
    cases = []
    for row in found["cases"]:
        missing = ABSENT_FUNCTIONS.get(row["function"])
        assert missing or row["function"] in FUNCTIONS
        reason = f"{missing}: no such statistic" if missing else None
        cases.append(Case(f"{row['function']}-{row['line']}", row, reason))
    return cases


CASES = cases_of(FILE, make_cases)


@parametrize(CASES)
def test_a_statistic_is_as_published(case: Case) -> None:
    args, function = case.given["args"], FUNCTIONS[case.given["function"]]
    frame = args["returns"].get("frame")
    if frame is None:
        found = function(args)
    else:
        found = [function(args | {"returns": {"series": name}}) for name in FRAMES[frame]]
    expected = case.given["expected"]
    if case.given["function"] == "downside_risk" and expected == 0.0:
        assert found is None  # no loser: absent
        return
    values, wanted = (found, expected) if isinstance(expected, list) else ([found], [expected])
    assert isinstance(values, list)
    assert len(values) == len(wanted)
    for value, want in zip(values, wanted, strict=True):
        if math.isfinite(number(want)):
            assert value == pytest.approx(want, abs=1.5 * 10.0 ** -case.given["decimals"])
        else:
            assert value is None


def test_no_case_was_lost() -> None:
    require_counts(FILE, CASES)
    found = document(FILE)
    assert found is not None
    assert len(CASES) == len(found["cases"])
