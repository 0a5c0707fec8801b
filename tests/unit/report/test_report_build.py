"""What is taken from a result for its report."""

import numpy as np

from klinecast.report import compared_result, report_data
from tests.reports import make_averages, make_result, make_series_results, make_trades


def test_reasons_become_texts_also_those_that_are_not_known() -> None:
    equity, trades = make_averages(500)
    trades["exit_reason"][:3] = (0, 2, 2**31 - 1)
    data = report_data(make_result(equity, trades), equity, trades)
    assert data.trades["exit_reason"][:4].tolist() == ["open", "stop loss", "reason 2147483647", "signal"]
    assert "series" not in data.trades


def test_trades_of_several_series_carry_their_symbols() -> None:
    equity, trades = make_averages(500)[0], make_trades(20, series=2)
    several = make_series_results(("BTCUSDT", "ETHUSDT"), {"expectancy": 2.0, "open_profit": 5.0})
    data = report_data(make_result(equity, trades, series_results=several), equity, trades)
    assert data.trades["series"].tolist() == [("BTCUSDT", "ETHUSDT")[one] for one in trades["series"]]
    assert data.each_series["BINANCE SPOT ETHUSDT 1h"]["profit"] == 2.0 * 41 + 5.0


def test_columns_that_were_not_kept_are_empty() -> None:
    equity, trades = make_averages(500)
    data = report_data(make_result(equity, trades), {}, {})
    assert [len(one) for one in (data.equity, data.close, data.open_time_ms, data.trades["profit"])] == [0, 0, 0, 0]
    assert data.trades["exit_reason"].tolist() == []


def test_a_compared_result_is_called_by_strategy_and_short_id() -> None:
    equity, trades = make_averages(500)
    found = compared_result(make_result(equity, trades), equity)
    assert found.label == "dual_ma 0197f3a2"
    assert np.array_equal(found.equity, equity["equity"])
