"""An equal request gets the stored result at once, or waits for the one under way; one that is not equal never does."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import klinecast_test_strategies
import numpy as np
import psycopg
import pytest

from klinecast.client import BacktestConfig, BacktestEvent, Client, IndicatorKey
from klinecast.errors import NotFound
from klinecast.types import ExecutionModel
from services.runtime.database import libpq_url
from tests.factories import HOUR_MS, START_MS, make_columns, make_config
from tests.suite import Suite

KLINES = 500


@pytest.fixture
def client(suite: Suite):
    with suite.client() as client:
        yield client


def run(client: Client, config: BacktestConfig) -> BacktestEvent:
    last = list(client.run_backtest(config))[-1]
    assert last.state == "SUCCEEDED", last
    return last


def equal_config(client: Client, **options: object) -> BacktestConfig:
    return make_config(client, klines=KLINES, allow_reuse=True, **options)


def rewrite(client: Client, config: BacktestConfig, index: int) -> None:
    row = {name: values[index : index + 1] for name, values in make_columns(KLINES + 10).items()}
    client.ingest_klines(config.series, [row | {"volume": row["volume"] + 1}])  # type: ignore[arg-type]


def test_an_equal_request_gets_the_stored_result(client: Client) -> None:
    config = equal_config(client)
    first, second = run(client, config), run(client, config)
    assert (first.reused, second.reused) == (False, True)
    assert second.backtest_id != first.backtest_id
    assert second.result_id == first.result_id == first.backtest_id
    assert [event.sequence for event in client.watch_backtest(second.backtest_id)] == [1]
    found = client.get_backtest(second.backtest_id)
    assert (found.state, found.reused, found.attempt, found.fraction_done) == ("SUCCEEDED", True, 0, 1.0)


@pytest.mark.parametrize(
    "same",
    [
        {"priority": 9},
        {"labels": {"a": "b"}},
        {"result_ttl_s": 100.0},
        {"deadline_s": 60.0},
        {"params": {"fast": 10}},  # its default
        {"mode": "long_only"},  # that of spot
    ],
)
def test_what_does_not_change_the_result_is_no_difference(client: Client, same: dict[str, object]) -> None:
    config = equal_config(client)
    run(client, config)
    assert run(client, dataclasses.replace(config, **same)).reused


@pytest.mark.parametrize(
    "other",
    [
        {"params": {"fast": 11}},
        {"mode": "long_short", "execution": ExecutionModel(allow_short=True)},
        {"initial_cash": 10_001.0},
        {"execution": ExecutionModel(taker_fee_bps=11)},
        {"warmup_klines": 1},
        {"end_ms": START_MS + HOUR_MS * (KLINES - 1)},
        {"keep_trades": False},
        {"strategy": "rsi"},
        {"allow_reuse": False},
    ],
)
def test_what_may_change_the_result_is_a_difference(client: Client, other: dict[str, object]) -> None:
    config = equal_config(client)
    run(client, config)
    assert not run(client, dataclasses.replace(config, **other)).reused


def test_a_rewritten_kline_is_a_difference_and_an_append_is_none(client: Client) -> None:
    config = equal_config(client)
    run(client, config)
    rewrite(client, config, KLINES)  # after the range
    assert run(client, config).reused
    rewrite(client, config, KLINES // 2)
    assert not run(client, config).reused
    assert run(client, config).reused


def test_a_kline_that_arrives_inside_the_range_is_a_difference(client: Client) -> None:
    config = dataclasses.replace(equal_config(client), end_ms=START_MS + HOUR_MS * (KLINES + 5))
    run(client, config)
    rewrite(client, config, KLINES)
    assert not run(client, config).reused


def test_a_rewritten_stored_indicator_is_a_difference(client: Client) -> None:
    config = equal_config(client, strategy="follow", params={"stored": "mood"})
    key = IndicatorKey(config.series.venue, config.series.market_type, config.series.symbol, "mood")  # type: ignore[union-attr]
    times = START_MS + HOUR_MS * np.arange(KLINES)
    client.ingest_indicators(key, [(times, np.ones(KLINES))])
    run(client, config)
    assert run(client, config).reused
    client.ingest_indicators(key, [(times[5:6], np.zeros(1))])
    assert not run(client, config).reused


def test_a_result_that_is_gone_is_computed_again(client: Client) -> None:
    config = equal_config(client)
    first = run(client, config)
    second = run(client, config)
    client.delete_result(str(first.result_id))
    with pytest.raises(NotFound):
        client.get_result(str(second.result_id))
    assert not run(client, config).reused


def test_the_result_is_kept_for_whoever_wants_it_longest(client: Client) -> None:
    config = dataclasses.replace(equal_config(client), result_ttl_s=100.0)
    first = client.get_result(str(run(client, config).result_id))
    longer = client.get_result(str(run(client, dataclasses.replace(config, result_ttl_s=1_000.0)).result_id))
    assert longer.result_id == first.result_id
    assert longer.expire_time_ms - first.expire_time_ms > 800_000
    again = client.get_result(str(run(client, dataclasses.replace(config, result_ttl_s=10.0)).result_id))
    assert again.expire_time_ms == longer.expire_time_ms


def test_a_pinned_result_stays_pinned(client: Client) -> None:
    config = equal_config(client)
    result_id = str(run(client, config).result_id)
    client.update_retention(result_id, pinned=True)
    assert run(client, config).reused
    assert client.get_result(result_id).pinned


def test_another_tenant_computes_for_itself(client: Client, suite: Suite) -> None:
    config = equal_config(client)
    run(client, config)
    with suite.client(tenant="stranger") as stranger:
        assert not run(stranger, config).reused


def test_equal_requests_under_way_compute_once(client: Client) -> None:
    config = equal_config(client, strategy="slow", params={"seconds": 1.0})
    with ThreadPoolExecutor(20) as pool:
        ends = list(pool.map(lambda _: run(client, config), range(20)))
    assert len({end.backtest_id for end in ends}) == 20
    assert len({end.result_id for end in ends}) == 1
    assert sum(not end.reused for end in ends) == 1


def test_those_that_wait_for_a_cancelled_one_go_on(client: Client) -> None:
    config = equal_config(client, strategy="slow", params={"seconds": 1.0})
    leader, *others = [client.create_backtest(config).backtest_id for _ in range(4)]
    next(event for event in client.watch_backtest(leader) if event.state == "RUNNING")
    client.cancel_backtest(leader)
    ends = [list(client.watch_backtest(one))[-1] for one in others]
    assert [end.state for end in ends] == ["SUCCEEDED"] * 3
    assert [end.reused for end in ends] == [False, True, True]


def test_one_that_waits_is_cancelled_alone(client: Client) -> None:
    config = equal_config(client, strategy="slow", params={"seconds": 1.0})
    leader, follower = (client.create_backtest(config).backtest_id for _ in range(2))
    assert client.cancel_backtest(follower).state == "CANCELLED"
    assert list(client.watch_backtest(leader))[-1].state == "SUCCEEDED"


def wait_until_read(suite: Suite, tenant: str) -> None:
    """Wait until the data service has sent klines for a tenant."""
    deadline = time.monotonic() + 30
    while not any("/StreamKlines" in line and tenant in line for line in suite.log("data").splitlines()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_klines_rewritten_while_an_equal_one_runs_are_computed_anew(suite: Suite) -> None:
    with suite.client(tenant="rewriter") as client:
        config = equal_config(client, strategy="slow", params={"seconds": 1.0})
        leader = client.create_backtest(config).backtest_id
        wait_until_read(suite, "rewriter")
        rewrite(client, config, 5)
        follower = run(client, config)
        assert not follower.reused
        assert list(client.watch_backtest(leader))[-1].state == "SUCCEEDED"


def test_a_request_id_used_before_stays_the_same_backtest(client: Client) -> None:
    config = equal_config(client)
    first = client.create_backtest(config, request_id=f"r-{config.series.symbol}")  # type: ignore[union-attr]
    list(client.watch_backtest(first.backtest_id))
    assert client.create_backtest(config, request_id=f"r-{config.series.symbol}").backtest_id == first.backtest_id  # type: ignore[union-attr]


def test_a_leader_that_is_swept_holds_nobody_up(own_suite: Suite, database_url: str) -> None:
    with own_suite.client() as client, psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        config = equal_config(client, strategy="slow", params={"seconds": 3.0})
        leader, follower = (client.create_backtest(config).backtest_id for _ in range(2))
        next(event for event in client.watch_backtest(leader) if event.state == "RUNNING")
        connection.execute("DELETE FROM backtest.backtests WHERE backtest_id = %s", (leader,))
        started = time.monotonic()
        assert list(client.watch_backtest(follower))[-1].state == "SUCCEEDED"
    assert time.monotonic() - started < 20


def test_a_parameter_file_that_changed_beside_the_strategy_is_a_difference(client: Client) -> None:
    config = equal_config(client, strategy="slow", params={"seconds": 0.0})
    run(client, config)
    assert run(client, config).reused
    file = Path(str(klinecast_test_strategies.__file__)).with_name("tuned.json")
    try:
        file.write_text('{"fast": 12}')
        assert not run(client, config).reused
        file.write_text('{"fast": 13}')
        assert not run(client, config).reused
        assert run(client, config).reused
    finally:
        file.unlink()
    assert run(client, config).reused  # as it was at first
