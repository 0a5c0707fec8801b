"""Backtests over several series, and over perpetuals with their funding, from request to result."""

from __future__ import annotations

import dataclasses
import uuid

import numpy as np
import pytest

from klinecast.client import BacktestConfig, Client, IndicatorKey, SeriesKey
from klinecast.errors import InvalidArgument, NotFound
from klinecast.interval import Interval
from klinecast.types import Account, ExecutionModel, KlineColumns, MarketType, Signals
from services.backtest.engine import combine, simulate, simulate_shared
from services.backtest.strategies import compute_signals
from tests.factories import HOUR_MS, START_MS, make_columns, make_series

COUNT = 400


@pytest.fixture
def client(suite):
    with suite.client() as client:
        yield client


def make_market(client: Client, count: int = 3, market_type: MarketType = MarketType.SPOT) -> list[SeriesKey]:
    """Ingest series of one market; the last begins 50 klines later."""
    keys = []
    for number in range(count):
        key = dataclasses.replace(make_series(), market_type=market_type)
        columns = make_columns(COUNT, seed=number + 1)
        if number == count - 1:
            columns = {name: column[50:] for name, column in columns.items()}
        client.ingest_klines(key, [columns])
        keys.append(key)
    return keys


def make_config(series, **options) -> BacktestConfig:
    defaults = {"strategy": "dual_ma", "params": {"fast": 5, "slow": 15}, "allow_reuse": False}
    return BacktestConfig(series=series, start_ms=START_MS, end_ms=START_MS + COUNT * HOUR_MS, **(defaults | options))


def finished(client: Client, config: BacktestConfig):
    event = list(client.run_backtest(config))[-1]
    assert event.state == "SUCCEEDED", event.error
    return client.get_result(str(event.result_id))


def local(client: Client, key: SeriesKey) -> tuple[KlineColumns, Signals]:
    klines = client.load_klines(key, START_MS, START_MS + COUNT * HOUR_MS).klines
    return klines, compute_signals("dual_ma", {"fast": 5, "slow": 15}, klines)


def test_separate_accounts_are_reported_each_and_together(client):
    keys = make_market(client)
    result = finished(client, make_config(keys, initial_cash=9_000.0))
    runs = [local(client, key) for key in keys]
    outcomes = [simulate(*run, ExecutionModel(), 3_000.0) for run in runs]
    together = combine([klines for klines, _ in runs], outcomes)
    equity = client.load_equity(result.result_id)
    assert equity["equity"].tobytes() == together.equity.tobytes()
    assert np.array_equal(equity["open_time_ms"], together.open_time_ms)
    assert result.final_equity == together.equity[-1]
    assert result.klines == COUNT
    assert [one.series for one in result.series_results] == keys
    assert [one.final_equity for one in result.series_results] == [one.equity[-1] for one in outcomes]
    assert [one.klines for one in result.series_results] == [COUNT, COUNT, COUNT - 50]
    assert result.statistics["total_return"] == together.equity[-1] / 9_000 - 1
    assert result.statistics["trade_count"] == sum(one.statistics["trade_count"] for one in result.series_results)
    alone = finished(client, make_config(keys[1], initial_cash=3_000.0))
    assert result.series_results[1].statistics == alone.statistics
    trades = client.load_trades(result.result_id)
    assert [int(np.count_nonzero(trades["series"] == n)) for n in range(3)] == [len(one.trades) for one in outcomes]


def test_a_shared_account_trades_all_series(client):
    keys = make_market(client)
    result = finished(client, make_config(keys, account=Account.SHARED))
    runs = [local(client, key) for key in keys]
    together = simulate_shared([klines for klines, _ in runs], [one for _, one in runs], ExecutionModel())
    equity, fills = client.load_equity(result.result_id), client.load_fills(result.result_id)
    assert equity["equity"].tobytes() == together.equity.tobytes()
    for number, outcome in enumerate(together.outcomes):
        assert fills["quantity"][fills["series"] == number].tobytes() == outcome.fills["quantity"].tobytes()
    assert result.statistics["total_return"] == together.equity[-1] / 10_000 - 1
    assert [one.final_equity for one in result.series_results] == [None] * 3
    assert result.open_position is None
    assert 0 < result.statistics["exposure_mean"] <= 1 + 1e-9


def test_event_strategies_and_cross_margin_need_accounts_of_their_own(client):
    keys = make_market(client, market_type=MarketType.LINEAR_PERPETUAL)
    model = ExecutionModel(market_type="LINEAR_PERPETUAL", margin_mode="CROSS", missing_funding="ZERO")
    with pytest.raises(InvalidArgument) as caught:
        client.create_backtest(make_config(keys, account=Account.SHARED, execution=model))
    assert [one.field for one in caught.value.violations] == ["config.execution.margin_mode"]


def test_series_must_fit_together(client):
    key = make_series()
    others = [key, dataclasses.replace(key, symbol="OTHER", interval=Interval.D1)]
    with pytest.raises(InvalidArgument) as caught:
        client.create_backtest(make_config([key, *others]))
    assert [one.field for one in caught.value.violations] == ["config.series[1]", "config.series[2].interval"]
    with pytest.raises(InvalidArgument, match="1 to 100 series"):
        client.create_backtest(make_config([]))


def test_a_series_that_fails_fails_the_backtest_with_its_name(client):
    keys = make_market(client, 2, MarketType.LINEAR_PERPETUAL)
    model = ExecutionModel(market_type="LINEAR_PERPETUAL")
    event = list(client.run_backtest(make_config(keys, execution=model)))[-1]
    assert (event.state, event.error.reason, event.error.kline_index) == ("FAILED", "MISSING_FUNDING", 0)
    assert "no record over" in event.error.message


def test_a_perpetual_pays_its_stored_funding(client):
    key = make_market(client, 1, MarketType.LINEAR_PERPETUAL)[0]
    name = f"T{uuid.uuid4().hex[:8].upper()}"
    key = dataclasses.replace(key, symbol=name)
    client.ingest_klines(key, [make_columns(COUNT)])
    stamps = START_MS + 8 * HOUR_MS * np.arange(COUNT // 8)
    rates = np.full(len(stamps), 0.0001)
    client.ingest_indicators(IndicatorKey(key.venue, key.market_type, name, "funding_rate"), [(stamps, rates)])
    marks = np.full(len(stamps), 100.0)
    client.ingest_indicators(IndicatorKey(key.venue, key.market_type, name, "funding_mark_price"), [(stamps, marks)])
    model = ExecutionModel(market_type="LINEAR_PERPETUAL", taker_fee_bps=0, target_unit="QUANTITY")
    config = make_config(key, strategy="buy_and_hold", params={}, execution=model)
    result = finished(client, config)
    held = client.load_fills(result.result_id)
    assert held["quantity"].tolist() == [1.0]
    paid = np.count_nonzero(stamps >= held["open_time_ms"][0]) - 0
    assert result.statistics["total_funding"] == pytest.approx(paid * 100.0 * 0.0001)


def make_ambiguous(client: Client) -> SeriesKey:
    """Ingest hours that reach both levels, and minutes of every second one of them that reach the target first."""
    key = make_series()
    hours = np.arange(COUNT)
    prices = {name: np.full(COUNT, value) for name, value in (("open", 100.0), ("high", 104.0), ("low", 96.0))}
    columns = {"open_time_ms": START_MS + HOUR_MS * hours, **prices, "close": prices["open"], "volume": prices["open"]}
    client.ingest_klines(key, [columns])
    minutes = np.arange(COUNT * 60)
    place = minutes % 60
    told = (minutes // 60) % 2 == 0
    high = np.where(place == 10, 104.0, 100.0)
    low = np.where(place == 50, 96.0, 100.0)
    flat = np.full(len(minutes), 100.0)
    finer = {
        "open_time_ms": START_MS + 60_000 * minutes, "open": flat, "high": high, "low": low, "close": flat,
        "volume": flat,
    }  # fmt: skip
    minute_key = dataclasses.replace(key, interval=Interval.M1)
    client.ingest_klines(minute_key, [{name: column[told] for name, column in finer.items()}])
    return key


def test_finer_klines_decide_where_a_stop_and_a_target_are_both_touched(client):
    key = make_ambiguous(client)
    model = ExecutionModel(stop_loss=0.03, take_profit=0.03, reentry="NEXT_DECISION", taker_fee_bps=0)
    plain = make_config(key, strategy="dual_ma", execution=model, params={"fast": 2, "slow": 3})
    hold = dataclasses.replace(plain, strategy="garbage", params={"how": "spoil"})
    coarse = finished(client, hold)
    fine = finished(client, dataclasses.replace(hold, finer_interval=Interval.M1))
    assert (coarse.ambiguous_klines, coarse.resolved_klines) == (COUNT - 1, 0)
    assert (fine.ambiguous_klines, fine.resolved_klines) == (COUNT // 2, COUNT // 2 - 1)
    assert coarse.statistics["win_rate"] == 0
    assert fine.statistics["win_rate"] == (COUNT // 2 - 1) / (COUNT - 1)


def test_a_finer_interval_must_divide_and_be_stored(client):
    key = make_market(client, 1)[0]
    for finer, error in ((Interval.H4, InvalidArgument), (Interval.M1, NotFound)):
        with pytest.raises(error, match="must divide 1h evenly" if finer is Interval.H4 else "1m"):
            client.create_backtest(make_config(key, finer_interval=finer))
