"""The honesty box warns of what flatters a result, and of nothing else."""

import dataclasses

import pytest

from klinecast.report import render_report, report_data
from klinecast.report.honesty import honesty_warnings
from klinecast.types import ExecutionModel, MarketType
from tests.reports import make_averages, make_result

EQUITY, TRADES = make_averages(3_000)
PERPETUAL = MarketType.LINEAR_PERPETUAL


def _warnings(**changes: object) -> list[str]:
    return honesty_warnings(report_data(make_result(EQUITY, TRADES, **changes), EQUITY, TRADES))


def _execution(**changes: object) -> dict[str, object]:
    values = {"market_type": PERPETUAL, "slippage_bps": 2.0} | changes
    return dataclasses.replace(ExecutionModel(), **values).to_dict()  # type: ignore[arg-type]


def test_nothing_is_said_where_nothing_flatters() -> None:
    assert _warnings() == []
    page = render_report(report_data(make_result(EQUITY, TRADES), EQUITY, TRADES))
    assert "Nothing found: costs are charged, no kline was ambiguous, none is missing." in page
    unsure = render_report(report_data(make_result(EQUITY, TRADES, ambiguous_klines=2), EQUITY, TRADES))
    assert "what is ambiguous made no difference" in unsure
    assert 'class="call"' not in page


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        ({"taker_fee_bps": 0.0, "slippage_bps": 0.0}, "No fees and no slippage"),
        ({"taker_fee_bps": 0.0}, "No fees are configured"),
        ({"slippage_bps": 0.0}, "No slippage is configured"),
        ({"maker_fee_bps": -1.0}, "A fee below 0"),
        ({"fill_timing": "THIS_CLOSE"}, "fill at the close"),
        ({"gap_policy": "AT_LEVEL"}, "Stops fill at their level"),
        ({"missing_funding": "ZERO"}, "Funding that is not on record"),
    ],
)
def test_what_the_execution_model_flatters(execution: dict[str, object], said: str) -> None:
    (warning,) = _warnings(execution=_execution(**execution))
    assert said in warning


def test_funding_of_spot_is_not_missed() -> None:
    assert _warnings(execution=_execution(market_type=MarketType.SPOT, missing_funding="ZERO")) == []


def test_ambiguous_klines_count_where_they_move_the_return() -> None:
    (warning,) = _warnings(ambiguous_klines=3, total_return_bounds=(-0.04, 0.3))
    assert "In 3 klines" in warning
    assert "−4.00%" in warning
    assert "+30.00%" in warning
    assert _warnings(ambiguous_klines=3, total_return_bounds=(0.1, 0.1)) == []


def test_gaps_an_open_position_and_few_trades() -> None:
    assert "9 klines are missing, in 1 gap:" in _warnings(gap_count=1, missing_count=9)[0]
    opened = {"quantity": 1.0, "entry_price": 10.0, "profit": 12.5}
    assert "1 position is open at the end: 12.50 " in _warnings(open_position=opened)[0]
    assert "Only 7 closed trades" in _warnings(statistics={"trade_count": 7.0})[0]


def test_the_box_shows_bounds_costs_position_and_target() -> None:
    opened = {"quantity": 0.25, "entry_price": 61_000.5, "profit": 12.5}
    ended = {"pending_target": -1.0, "open_position": opened, "resolved_klines": 41}
    result = make_result(EQUITY, TRADES, total_return_bounds=(0.0123, 0.0456), **ended)
    page = render_report(report_data(result, EQUITY, TRADES))
    box = page[page.index('id="s-honesty"') : page.index('id="s-statistics"')]
    for text in ("41", "+1.23%", "+4.56%", "81.25", "−12.40", "−1", "quantity 0.25, entry price 61,000.5, profit 12.5"):
        assert f"<td>{text}</td>" in box
