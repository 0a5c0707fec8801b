"""What the engine refuses, and how it says so."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from services.backtest.engine import EngineError, ExecutionModel, FundingColumns, KlineColumns, Signals, simulate

NAN = float("nan")


def refused(action) -> tuple[str, int | None]:
    with pytest.raises(EngineError) as caught:
        action()
    return caught.value.reason, caught.value.kline_index


@pytest.mark.parametrize("price", [0.0, -1.0, NAN, float("inf")])
def test_an_impossible_price_names_its_kline(run, price):
    assert refused(lambda: run([1, 1, price], [NAN] * 3)) == ("INVALID_KLINES", 2)


def test_open_times_have_to_ascend():
    one = np.ones(3)
    klines = KlineColumns(np.array([0, 2, 2]), one, one, one, one, one)
    assert refused(lambda: simulate(klines, Signals(one), ExecutionModel())) == ("INVALID_KLINES", 2)


def test_no_klines_are_refused(run):
    assert refused(lambda: run([], [])) == ("INVALID_KLINES", None)


@pytest.mark.parametrize("target", [float("inf"), 1.5, -0.5])
def test_an_impossible_exposure_names_its_kline(run, target):
    assert refused(lambda: run([1, 1, 1], [NAN, target, NAN])) == ("INVALID_EXPOSURE", 1)


def test_signals_have_to_be_as_long_as_the_klines(run):
    assert refused(lambda: run([1, 1, 1], [1, 1]))[0] == "INVALID_SIGNALS"


@pytest.mark.parametrize("name", ["stop_loss", "take_profit", "trailing_stop"])
def test_a_distance_of_zero_names_its_kline(run, name):
    columns = {name: np.array([NAN, 0.1, 0.0])}
    assert refused(lambda: run([1, 1, 1], [1, 1, 1], columns=columns)) == ("INVALID_SIGNALS", 2)


def test_a_limit_and_a_stop_price_together_are_refused(run):
    columns = {"limit_price": np.array([NAN, 1.0]), "stop_price": np.array([1.0, 1.0])}
    assert refused(lambda: run([1, 1], [1, 1], columns=columns)) == ("INVALID_SIGNALS", 1)


def test_inverse_perpetuals_are_refused(run):
    assert refused(lambda: run([1], [1], market_type="INVERSE_PERPETUAL"))[0] == "UNSUPPORTED_MARKET_TYPE"


def test_funding_on_spot_is_refused_rather_than_ignored(run):
    funding = FundingColumns(np.array([0]), np.array([0.1]), np.array([NAN]))
    assert refused(lambda: run([1], [1], funding=funding))[0] == "UNSUPPORTED_EXECUTION"


def test_the_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(EngineError("INVALID_KLINES", 7, "why")))
    assert (error.reason, error.kline_index, error.detail) == ("INVALID_KLINES", 7, "why")
