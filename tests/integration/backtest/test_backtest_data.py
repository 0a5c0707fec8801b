"""What a backtest reads: indicators its strategy asks for, intervals that are not stored, gaps it goes across."""

from dataclasses import replace

import numpy as np
import pytest
import talib

from klinecast.client import Client, Gap, IndicatorKey, Interval
from klinecast.errors import NotFound
from tests.factories import HOUR_MS, START_MS, make_columns, make_config, make_series
from tests.suite import Suite


@pytest.fixture
def client(suite: Suite):
    with suite.client() as client:
        yield client


def store_mood(client: Client, config) -> np.ndarray:
    series = config.series
    times = START_MS + 3 * HOUR_MS * np.arange(400)
    values = np.sign(np.sin(np.arange(400) / 7))
    client.ingest_indicators(
        IndicatorKey(series.venue, series.market_type, series.symbol, "sentiment"), [(times, values)]
    )
    return np.repeat(values, 3)


def test_a_strategy_sees_the_indicators_it_asks_for(client: Client) -> None:
    config = make_config(client, klines=1_000, strategy="follow", params={"period": 30})
    config = replace(config, start_ms=START_MS + 400 * HOUR_MS)
    mood = store_mood(client, config)[:1_000]
    event = list(client.run_backtest(config))[-1]
    assert event.state == "SUCCEEDED", event.error
    close = make_columns(1_000)["close"]
    long = ((close > talib.EMA(close, 30)) & (mood > 0))[400:]
    fills = client.load_fills(str(event.result_id))
    entries = np.flatnonzero(long[:-1] & ~np.concatenate(([False], long[:-2]))) + 401
    buys = fills["open_time_ms"][fills["side"] > 0]
    assert list(buys) == list(START_MS + HOUR_MS * entries)


def test_an_indicator_that_is_not_there_fails_the_backtest_with_its_reason(client: Client) -> None:
    event = list(client.run_backtest(make_config(client, strategy="follow", params={"stored": "nothing"})))[-1]
    assert (event.state, event.error.reason) == ("FAILED", "INDICATOR_NOT_FOUND")
    event = list(client.run_backtest(make_config(client, strategy="follow", params={"stored": "SMAA"})))[-1]
    assert (event.state, event.error.reason) == ("FAILED", "STRATEGY_FAILED")
    assert "did you mean SMA" in event.error.message


def test_an_interval_that_is_not_stored_is_backtested_from_one_that_divides_it(client: Client) -> None:
    config = make_config(client, klines=1_000)
    built = replace(config, series=replace(config.series, interval=Interval.H4))
    event = list(client.run_backtest(built))[-1]
    assert event.state == "SUCCEEDED", event.error
    result = client.get_result(str(event.result_id))
    assert (result.klines, result.source_interval) == (250, Interval.H1)
    with pytest.raises(NotFound):
        client.create_backtest(replace(config, series=replace(config.series, interval=Interval.M30)))


def test_the_gaps_crossed_are_listed(client: Client) -> None:
    config = replace(make_config(client), series=make_series())
    columns = make_columns(500)
    kept = np.delete(np.arange(500), [100, 101, 300])
    client.ingest_klines(config.series, [{name: values[kept] for name, values in columns.items()}])
    result = client.get_result(str(list(client.run_backtest(config))[-1].result_id))
    expected = [Gap(START_MS + a * HOUR_MS, START_MS + b * HOUR_MS, b - a + 1) for a, b in ((100, 101), (300, 300))]
    assert (result.gap_count, result.missing_count, list(result.gaps)) == (2, 3, expected)
