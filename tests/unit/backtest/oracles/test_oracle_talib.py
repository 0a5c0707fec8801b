"""TA-Lib's published indicator values: by the data service's indicators, and by the kernels of the strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from klinecast.indicators import Indicator
from services.backtest.strategies.averages import (
    exponential_means,
    relative_strength,
    window_deviations,
    window_means,
)
from services.backtest.strategies.channels import highest_before
from services.data.indicators.catalogue import prepare
from tests.unit.backtest.oracles.published import Case, cases_of, document, number, parametrize, require_counts

FILE = "talib_python_tests.json"
MA_TYPES = {"EMA": 1}
LINES = {None: 0, "upper": 0, "middle": 1, "lower": 2}

Params = dict[str, Any]


def by_the_service(name: str, params: Params, values: np.ndarray) -> list[np.ndarray]:
    """Return the columns of an indicator of the data service."""
    columns = dict.fromkeys(("open_time_ms", "open", "high", "low", "close", "volume"), values)
    typed = {key: MA_TYPES.get(value, value) for key, value in params.items()}
    (computation,) = prepare([Indicator(name, typed)])
    return computation.compute(columns)


def ema(values: np.ndarray, period: int) -> np.ndarray:
    means = np.empty(len(values))
    exponential_means(values, 0, period, np.zeros(2), means)
    return means


def rsi(params: Params, values: np.ndarray) -> list[np.ndarray]:
    index = np.empty(len(values))
    relative_strength(values, params["timeperiod"], np.zeros(4), index)
    return [index]


def dema(params: Params, values: np.ndarray) -> list[np.ndarray]:
    once = ema(values, params["timeperiod"])
    return [2 * once - ema(once, params["timeperiod"])]


def bands(params: Params, values: np.ndarray) -> list[np.ndarray]:
    """The deviation is about the plain mean of the window, whatever the middle is."""
    period, middle = params["timeperiod"], ema(values, params["timeperiod"])
    means, deviations = np.empty(len(values)), np.empty(len(values))
    window_means(values, 0, period, np.zeros(3), means)
    window_deviations(values, 0, period, means, deviations)
    return [middle + params["nbdevup"] * deviations, middle, middle - params["nbdevdn"] * deviations]


def extreme(sign: float) -> Callable[[Params, np.ndarray], list[np.ndarray]]:
    def compute(params: Params, values: np.ndarray) -> list[np.ndarray]:
        """The kernel looks at the values before each, TA-Lib at the value too: one place further."""
        known = values[~np.isnan(values)]
        found = np.empty(len(known) + 1)
        padded = np.append(known, 0.0)
        highest_before(padded, params["timeperiod"], sign, found, np.empty(len(padded), np.int64))
        return [np.concatenate([np.full(len(values) - len(known), np.nan), found[1:]])]

    return compute


KERNELS: dict[str, Callable[[Params, np.ndarray], list[np.ndarray]]] = {
    "RSI": rsi,
    "EMA": lambda params, values: [ema(values, params["timeperiod"])],
    "DEMA": dema,
    "BBANDS": bands,
    "MIN": extreme(-1.0),
    "MAX": extreme(1.0),
}


def make_cases(found: dict[str, Any]) -> list[Case]:
    """Each row twice: by the service and by a kernel."""
    cases = []
    for table in ("vectors", "points"):
        for at, row in enumerate(found[table]):
            name = f"{row['function']}-{table}-{at}"
            compatible = "compatibility" not in row["params"]
            reason = None if compatible else "TA-Lib's Metastock compatibility: EMAs are seeded with a mean"
            cases.append(Case(f"{name}-service", (row, by_the_service), reason))
            if row["function"] not in KERNELS:
                reason = "no strategy needs this indicator: there is no kernel of it"
            cases.append(Case(f"{name}-kernel", (row, None), reason))
    return cases


CASES = cases_of(FILE, make_cases)


@parametrize(CASES)
def test_an_indicator_has_the_published_values(case: Case) -> None:
    row, service = case.given
    found = document(FILE)
    assert found is not None
    given = found["series"] if row["input"] == "series" else row["input"]
    values = np.array([number(value) for value in given])
    params = row["params"]
    columns = service(row["function"], params, values) if service else KERNELS[row["function"]](params, values)
    column = columns[LINES[row.get("line")]]
    if "expected" in row:
        expected = [number(value) for value in row["expected"]]
        np.testing.assert_allclose(column, expected, rtol=row["tolerance"])
        return
    first = row["first_valid_index"]
    assert np.isnan(column[:first]).all()
    assert not np.isnan(column[first:]).any()
    for after, value in row["expected_at_first_valid_plus"].items():
        assert column[first + int(after)] == pytest.approx(value, abs=row["tolerance"])


@pytest.mark.parametrize(("name", "kernel"), KERNELS.items())
@pytest.mark.parametrize("period", [2, 9, 30])
def test_a_kernel_equals_the_service(name: str, kernel: Callable[..., Any], period: int, seed: int) -> None:
    values = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, 5_000)))
    params: Params = {"timeperiod": period}
    if name == "BBANDS":
        params |= {"nbdevup": 2.0, "nbdevdn": 2.0, "matype": "EMA"}
    for found, expected in zip(kernel(params, values), by_the_service(name, params, values), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_no_case_was_lost() -> None:
    require_counts(FILE, CASES)
    found = document(FILE)
    assert found is not None
    assert len(CASES) == 2 * (len(found["vectors"]) + len(found["points"]))
