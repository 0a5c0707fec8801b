"""A backtest that extends an earlier one reads the new klines only, and equals a full run bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from klinecast.client import BacktestConfig, Client, IndicatorKey, Result
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import ExecutionModel, MarketType
from tests.factories import HOUR_MS, START_MS, make_columns
from tests.suite import Suite

YEAR = 8_760
KLINES = make_columns(YEAR + 200)
MODELS = {
    "plain": ExecutionModel(),
    "protected": ExecutionModel(stop_loss=0.03, take_profit=0.05, trailing_stop=0.04, fill_timing="THIS_CLOSE"),
    "steady": ExecutionModel(rebalance="EVERY_KLINE", rebalance_tolerance=0.01, slippage_bps=2.0),
}


@pytest.fixture
def client(suite: Suite):
    with suite.client() as client:
        yield client


def ingest(client: Client, series: SeriesKey, rows: slice | np.ndarray) -> None:
    client.ingest_klines(series, [{name: values[rows] for name, values in KLINES.items()}])


def make(client: Client, strategy: str, *, gap: bool = True, **options: object) -> BacktestConfig:
    """Return a config over a year but a day, of a series with a gap a month before its end."""
    series = SeriesKey("TEST", MarketType.SPOT, f"I{np.random.default_rng().integers(10**12)}", Interval.H1)
    ingest(client, series, np.r_[0 : YEAR - 700, YEAR - 690 if gap else YEAR - 700 : YEAR])
    return BacktestConfig(
        strategy=strategy,
        series=series,
        start_ms=START_MS,
        end_ms=START_MS + (YEAR - 24) * HOUR_MS,
        **options,  # type: ignore[arg-type]
    )


def run(client: Client, config: BacktestConfig) -> Result:
    last = list(client.run_backtest(config))[-1]
    assert last.state == "SUCCEEDED", last
    assert not last.reused
    return client.get_result(str(last.result_id))


def extended(config: BacktestConfig, hours: int = 0) -> BacktestConfig:
    return dataclasses.replace(config, end_ms=START_MS + (YEAR + hours) * HOUR_MS)


def assert_equal_to_full(client: Client, found: Result, config: BacktestConfig) -> None:
    full = run(client, dataclasses.replace(config, allow_reuse=False))
    for load in (client.load_equity, client.load_trades, client.load_fills):
        ours, theirs = load(found.result_id), load(full.result_id)
        assert {name: column.tobytes() for name, column in ours.items()} == {
            name: column.tobytes() for name, column in theirs.items()
        }
    ours, theirs = (
        {one.name: getattr(result, one.name) for one in dataclasses.fields(result)} for result in (found, full)
    )
    for name in ("statistics", "final_equity", "klines", "gaps", "gap_count", "missing_count", "open_position"):
        assert ours[name] == theirs[name], name
    assert ours["total_return_bounds"] == theirs["total_return_bounds"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("strategy", "params", "most"),
    [
        ("dual_ma", {"fast": 10, "slow": 30}, 24),
        ("dual_ma", {"fast": 10, "slow": 30, "average": "ema"}, 24),
        ("rsi", {}, 24),
        ("macd", {}, 24),
        ("bollinger", {}, 24),
        ("donchian_breakout", {}, 24),
        ("buy_and_hold", {}, 24),
        ("recent", {"klines": 50}, 24 + 50),
    ],
)
def test_a_day_more_costs_a_day(client: Client, strategy: str, params: dict, most: int, model: str) -> None:
    config = make(client, strategy, params=params, execution=MODELS[model])
    run(client, config)
    longer = run(client, extended(config))
    assert longer.klines_read <= most <= 0.05 * YEAR
    assert longer.continued_from
    assert_equal_to_full(client, longer, extended(config))


def test_it_goes_on_again_and_again(client: Client) -> None:
    config = dataclasses.replace(make(client, "dual_ma", warmup_klines=50), start_ms=START_MS + 100 * HOUR_MS)
    run(client, config)
    for hours in (0, 5, 50, 51):
        ingest(client, config.series, slice(YEAR, YEAR + hours))  # type: ignore[arg-type]
        config = extended(config, hours)
        longer = run(client, config)
        assert 0 < longer.klines_read <= 45
    assert_equal_to_full(client, longer, config)


def test_klines_that_came_late_into_the_earlier_range_are_new_klines(client: Client) -> None:
    config = dataclasses.replace(make(client, "macd"), end_ms=START_MS + (YEAR + 100) * HOUR_MS)
    run(client, config)
    ingest(client, config.series, slice(YEAR, YEAR + 150))  # type: ignore[arg-type]
    longer = run(client, extended(config, 150))
    assert longer.klines_read == 150
    assert_equal_to_full(client, longer, extended(config, 150))


def test_a_rewritten_kline_means_a_full_run(client: Client) -> None:
    config = make(client, "dual_ma", gap=False)
    run(client, config)
    row = {name: values[4_000:4_001] for name, values in KLINES.items()}
    client.ingest_klines(config.series, [row | {"volume": row["volume"] + 1}])  # type: ignore[arg-type]
    longer = run(client, extended(config))
    assert longer.klines_read == YEAR
    assert not longer.continued_from


@pytest.mark.parametrize(
    "options",
    [
        {"execution": ExecutionModel(close_at_end=True)},
        {"keep_trades": False},
        {"keep_equity": False},
        {"strategy": "garbage", "params": {"how": "spoil"}},
    ],
)
def test_what_is_not_kept_or_not_remembered_means_a_full_run(client: Client, options: dict[str, object]) -> None:
    config = dataclasses.replace(make(client, "dual_ma"), **options)
    run(client, config)
    assert run(client, extended(config)).klines_read > 8_000


def test_a_deleted_result_means_a_full_run(client: Client) -> None:
    config = make(client, "dual_ma")
    client.delete_result(run(client, config).result_id)
    assert run(client, extended(config)).klines_read > 8_000


def test_a_perpetual_goes_on_with_its_funding(client: Client) -> None:
    spot = make(client, "dual_ma")
    series = dataclasses.replace(spot.series, market_type=MarketType.LINEAR_PERPETUAL)  # type: ignore[type-var]
    ingest(client, series, slice(0, YEAR))
    execution = ExecutionModel(market_type=MarketType.LINEAR_PERPETUAL, max_leverage=3.0)
    config = dataclasses.replace(spot, series=series, execution=execution)
    key = IndicatorKey(series.venue, series.market_type, series.symbol, "funding_rate")
    times = START_MS + 8 * HOUR_MS * np.arange(YEAR // 8 + 1)
    client.ingest_indicators(key, [(times, np.random.default_rng(1).normal(0, 1e-4, len(times)))])
    run(client, config)
    longer = run(client, extended(config))
    assert longer.klines_read <= 24
    assert_equal_to_full(client, longer, extended(config))
