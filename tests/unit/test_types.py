"""The public types: coercion, defaults, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from klinecast.types import (
    ExecutionModel,
    FillTiming,
    Formula,
    KlineColumns,
    MarketType,
    Signals,
    StatisticsConvention,
)


def test_strings_become_enums():
    execution = ExecutionModel(fill_timing="THIS_CLOSE", market_type="LINEAR_PERPETUAL")
    assert execution.fill_timing is FillTiming.THIS_CLOSE
    assert execution.market_type is MarketType.LINEAR_PERPETUAL
    assert StatisticsConvention(formula="GEOMETRIC").formula is Formula.GEOMETRIC


def test_a_misspelt_enum_suggests():
    with pytest.raises(ValueError, match=r"fill_timing.*did you mean NEXT_OPEN"):
        ExecutionModel(fill_timing="NEXT_OPNE")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("taker_fee_bps", -1001), ("maker_fee_bps", -2000), ("fixed_fee", float("inf")),
        ("slippage_bps", float("nan")),
        ("max_leverage", 0), ("max_leverage", 2), ("step_size", -1), ("stop_loss", 0), ("take_profit", -0.1),
        ("trailing_stop", float("inf")), ("order_klines", 0), ("order_klines", 1.5), ("allow_short", "yes"),
        ("taker_fee_bps", "10"), ("taker_fee_bps", True), ("close_at_end", 1), ("rebalance_tolerance", -1),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"^{field}"):
        ExecutionModel(**{field: value})


def test_leverage_stays_below_the_maintenance_margin():
    with pytest.raises(ValueError, match="max_leverage"):
        ExecutionModel(market_type="LINEAR_PERPETUAL", max_leverage=200)


def test_defaults_depend_on_the_market():
    assert not ExecutionModel().shorts_allowed
    assert ExecutionModel(market_type="LINEAR_PERPETUAL").shorts_allowed
    assert ExecutionModel(taker_fee_bps=7).effective_maker_fee_bps == 7


@pytest.mark.parametrize(
    "value", [ExecutionModel(stop_loss=0.1, rebalance="EVERY_KLINE"), StatisticsConvention(ddof=0)]
)
def test_a_dict_and_back(value):
    assert type(value).from_dict(value.to_dict()) == value
    assert all(isinstance(one, str | float | int | bool | None) for one in value.to_dict().values())


def test_an_unknown_field_suggests():
    with pytest.raises(ValueError, match="stop_los: no such field; did you mean stop_loss"):
        ExecutionModel.from_dict({"stop_los": 0.1})


def test_columns_have_one_length():
    one = np.ones(3)
    with pytest.raises(ValueError, match="one length"):
        KlineColumns(np.arange(2), one, one, one, one, one)
    klines = KlineColumns([0, 1, 2], one, one, one, one, one)
    assert len(klines) == 3
    assert klines.slice(1, 2).open_time_ms.tolist() == [1]


def test_signals_accept_any_sequence_of_numbers():
    assert Signals([1, 0, 1]).target_exposure.dtype == np.float64


def test_columns_lent_read_only_are_taken():
    lent = np.arange(1.0, 5.0)
    lent.setflags(write=False)
    klines = KlineColumns(np.arange(4), lent, lent, lent, lent, lent)
    assert klines.close.flags.writeable
    assert not lent.flags.writeable
    owned = np.arange(1.0, 5.0)
    assert KlineColumns(np.arange(4), owned, owned, owned, owned, owned).close is owned
