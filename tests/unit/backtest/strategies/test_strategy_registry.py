"""Finding strategies and checking their params."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from klinecast.types import KlineColumns
from services.backtest.strategies import (
    InvalidParams,
    StrategyRegistry,
    UnknownStrategy,
    compute_signals,
    default_registry,
    validate_params,
)

GROUP = "klinecast.strategies"
PACKAGE = Path(__file__).resolve().parents[3] / "strategies_package" / "src"


@pytest.fixture
def plug_ins(monkeypatch) -> list[EntryPoint]:
    """Return the entry points of the test distribution without installing it."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    names = {"slow": "Slow", "crash": "Crash", "hang": "Hang", "hog": "Hog", "peek": "Peek"}
    return [EntryPoint(name, f"klinecast_test_strategies.{name}:{kind}", GROUP) for name, kind in names.items()]


def test_the_built_in_strategies_are_there():
    assert {"bollinger", "dual_ma", "macd", "rsi"} <= set(StrategyRegistry([]).names())


def test_plug_ins_join_them(plug_ins):
    registry = StrategyRegistry(plug_ins)
    assert registry.get("slow").description
    assert registry.broken == {}
    assert "klinecast_test_strategies" in sys.modules


def test_a_broken_plug_in_is_reported_and_the_others_start(plug_ins):
    bad = [EntryPoint("gone", "no.such.module:X", GROUP), EntryPoint("wrong", "json:loads", GROUP)]
    registry = StrategyRegistry([*bad, *plug_ins])
    assert set(registry.broken) == {"gone", "wrong"}
    assert "ModuleNotFoundError" in registry.broken["gone"]
    assert "slow" in registry.names()


def test_a_plug_in_cannot_take_a_built_in_name():
    point = EntryPoint("again", "services.backtest.strategies.rsi:Rsi", GROUP)
    assert "taken" in StrategyRegistry([point]).broken["again"]


def test_an_unknown_name_suggests():
    with pytest.raises(UnknownStrategy, match="did you mean dual_ma") as caught:
        default_registry().get("daul_ma")
    assert caught.value.suggestions == ("dual_ma",)


def test_every_bad_param_is_named_at_once():
    with pytest.raises(InvalidParams) as caught:
        validate_params(default_registry().get("dual_ma"), {"fsat": 3, "fast": 2.5, "slow": 1})
    assert {field for field, _ in caught.value.violations} == {"fsat", "fast", "slow"}
    assert any("did you mean fast" in message for _, message in caught.value.violations)


def test_whole_floats_are_whole_numbers():
    params = validate_params(default_registry().get("dual_ma"), {"fast": 5.0, "slow": 20.0})
    assert params.model_dump() == {"fast": 5, "slow": 20, "average": "sma"}


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [("dual_ma", {"fast": 30}, "fast"), ("macd", {"fast": 26}, "fast"), ("rsi", {"lower": 70}, "lower")],
)
def test_the_order_of_params_is_checked(name, params, field):
    with pytest.raises(InvalidParams) as caught:
        validate_params(default_registry().get(name), params)
    assert [one for one, _ in caught.value.violations] == [field]


def test_the_params_have_a_schema_with_bounds_and_defaults():
    schema = default_registry().get("rsi").Params.model_json_schema()
    assert schema["properties"]["period"]["default"] == 14
    assert schema["properties"]["lower"]["maximum"] == 100


def test_a_mode_is_one_of_two():
    one = np.ones(3)
    with pytest.raises(ValueError, match="sideways"):
        compute_signals("rsi", {}, KlineColumns(np.arange(3), one, one, one, one, one), mode="sideways")
