"""A backtest from request to result over real sockets, a real Postgres and real worker processes."""

import time
from dataclasses import replace

import numpy as np
import pytest

from klinecast.client import Backtest, Client
from klinecast.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from tests.factories import START_MS, make_config, make_series
from tests.suite import Suite


@pytest.fixture
def client(suite: Suite):
    with suite.client() as client:
        yield client


def wait_for(client: Client, backtest_id: str, *states: str) -> Backtest:
    deadline = time.monotonic() + 30
    while (backtest := client.get_backtest(backtest_id)).state not in states:
        assert time.monotonic() < deadline, backtest
        time.sleep(0.02)
    return backtest


def test_events_are_contiguous_and_end_with_the_terminal_one(client: Client) -> None:
    events = list(client.run_backtest(make_config(client)))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.terminal for event in events].count(True) == 1
    assert events[-1].state == "SUCCEEDED"


def test_result_is_what_the_backtest_says(client: Client) -> None:
    event = list(client.run_backtest(make_config(client)))[-1]
    result = client.get_result(str(event.result_id))
    equity, trades = client.load_equity(result.result_id), client.load_trades(result.result_id)
    assert result.klines == len(equity["equity"]) == 500
    assert result.final_equity == equity["equity"][-1]
    assert result.final_equity == pytest.approx(result.initial_cash + trades["profit"].sum(), abs=1e-6)
    assert len(client.load_fills(result.result_id)["price"]) == result.fill_rows


def test_progress_tells_what_is_left(client: Client) -> None:
    events = list(client.run_backtest(make_config(client, klines=100_000, strategy="stumble")))
    left = [event.eta_s for event in events if event.phase == "SIMULATE" and event.eta_s is not None]
    assert left, events
    assert min(left) >= 0.0
    assert events[-1].eta_s is None


def test_a_late_watcher_gets_the_whole_story(client: Client) -> None:
    events = list(client.run_backtest(make_config(client)))
    assert list(client.watch_backtest(events[0].backtest_id)) == events
    assert list(client.watch_backtest(events[0].backtest_id, after_sequence=1)) == events[1:]
    assert list(client.watch_backtest(events[0].backtest_id, after_sequence=events[-1].sequence)) == []


def test_a_number_beyond_the_last_event_is_refused(client: Client) -> None:
    backtest = client.create_backtest(make_config(client))
    with pytest.raises(InvalidArgument, match="after_sequence"):
        list(client.watch_backtest(backtest.backtest_id, after_sequence=999))


def test_one_request_id_makes_one_backtest(client: Client) -> None:
    config = make_config(client)
    first = client.create_backtest(config, request_id=f"once-{config.series.symbol}")
    again = client.create_backtest(config, request_id=f"once-{config.series.symbol}")
    assert first.backtest_id == again.backtest_id
    with pytest.raises(AlreadyExists):
        client.create_backtest(replace(config, priority=9), request_id=f"once-{config.series.symbol}")


def test_warmup_klines_are_seen_and_not_traded(client: Client) -> None:
    config = make_config(client)
    cut = replace(config, start_ms=START_MS + 100 * 3_600_000, warmup_klines=50)
    result = client.get_result(str(list(client.run_backtest(cut))[-1].result_id))
    assert result.klines == 400
    assert client.load_trades(result.result_id)["entry_index"][0] < 29


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"strategy": "dual_mma"}, "config.strategy: .*did you mean dual_ma"),
        ({"params": {"fats": 3}}, "config.params.fats: .*did you mean fast"),
        ({"params": {"fast": -3}}, "config.params.fast"),
        ({"params": {"fast": 1.5}}, "config.params.fast"),
        ({"params": {"fast": 30, "slow": 10}}, "config.params"),
        ({"end_ms": START_MS}, "config.end_time"),
        ({"end_ms": START_MS - 1}, "config.end_time"),
        ({"initial_cash": 0.0}, "config.initial_cash"),
        ({"initial_cash": float("nan")}, "config.initial_cash"),
        ({"priority": 10}, "config.priority"),
        ({"warmup_klines": -1}, "config.warmup_klines"),
        ({"deadline_s": 1e9}, "config.deadline"),
        ({"labels": {"": "x"}}, "config.labels"),
    ],
)
def test_a_bad_request_names_its_field(client: Client, change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        client.create_backtest(replace(make_config(client), **change))


def test_unknown_series_and_empty_ranges_are_told_apart(client: Client) -> None:
    config = make_config(client)
    with pytest.raises(NotFound) as unknown:
        client.create_backtest(replace(config, series=make_series()))
    assert unknown.value.reason == "SERIES_NOT_FOUND"
    with pytest.raises(FailedPrecondition) as empty:
        client.create_backtest(replace(config, start_ms=0, end_ms=1000))
    assert empty.value.reason == "NO_KLINES_IN_RANGE"


def test_unknown_backtests_are_not_found(client: Client, suite: Suite) -> None:
    with pytest.raises(NotFound):
        client.get_backtest("00000000-0000-7000-8000-000000000000")
    with pytest.raises(InvalidArgument, match="backtest_id"):
        client.cancel_backtest("nonsense")
    backtest = client.create_backtest(make_config(client))
    with suite.client(tenant="stranger") as stranger, pytest.raises(NotFound):
        stranger.get_backtest(backtest.backtest_id)


def test_a_strategy_that_raises_fails_with_its_traceback_and_no_path(client: Client) -> None:
    event = list(client.run_backtest(make_config(client, strategy="crash")))[-1]
    assert (event.state, event.error.reason) == ("FAILED", "STRATEGY_FAILED")
    assert "RuntimeError" in event.error.detail
    assert "/" not in event.error.detail
    assert list(client.run_backtest(make_config(client)))[-1].state == "SUCCEEDED"


def test_a_worker_that_always_dies_ends_after_five_attempts(client: Client) -> None:
    event = list(client.run_backtest(make_config(client, strategy="crash", params={"how": "os_exit"})))[-1]
    assert (event.state, event.error.reason, event.attempt) == ("FAILED", "ATTEMPTS_EXHAUSTED", 5)
    assert list(client.run_backtest(make_config(client)))[-1].state == "SUCCEEDED"


def test_a_strategy_that_ignores_everything_is_cancelled_by_force(client: Client) -> None:
    backtest = client.create_backtest(make_config(client, strategy="hang"))
    wait_for(client, backtest.backtest_id, "RUNNING")
    began = time.monotonic()
    client.cancel_backtest(backtest.backtest_id)
    assert list(client.watch_backtest(backtest.backtest_id))[-1].state == "CANCELLED"
    assert time.monotonic() - began < 5
    assert client.cancel_backtest(backtest.backtest_id).state == "CANCELLED"


def test_a_backtest_past_its_deadline_fails(client: Client) -> None:
    event = list(client.run_backtest(make_config(client, strategy="hang", deadline_s=1.0)))[-1]
    assert (event.state, event.error.reason) == ("FAILED", "BACKTEST_DEADLINE")


def test_strategies_are_listed_with_the_schema_of_their_params(client: Client) -> None:
    strategies = {strategy.name: strategy for strategy in client.list_strategies()}
    assert {"bollinger", "dual_ma", "macd", "rsi"} <= set(strategies)
    assert "fast" in strategies["dual_ma"].params_schema["properties"]


def test_pages_of_backtests_hold_each_once(client: Client) -> None:
    config = make_config(client)
    made = {client.create_backtest(config).backtest_id for _ in range(7)}
    listed = [one.backtest_id for one in client.list_backtests(limit=500)]
    assert len(listed) == len(set(listed))
    assert made <= set(listed)


def test_equity_is_the_same_every_time(client: Client) -> None:
    config = make_config(client)
    runs = [client.load_equity(str(list(client.run_backtest(config))[-1].result_id)) for _ in range(2)]
    np.testing.assert_array_equal(runs[0]["equity"], runs[1]["equity"])


def test_a_cut_watcher_that_resumes_sees_neither_gap_nor_repeat(client: Client) -> None:
    backtest = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 1.0}))
    seen = []
    for event in client.watch_backtest(backtest.backtest_id):
        seen.append(event)
        if event.state == "RUNNING":
            break
    assert not seen[-1].terminal
    seen += client.watch_backtest(backtest.backtest_id, after_sequence=seen[-1].sequence)
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert [event.state for event in seen][-1] == "SUCCEEDED"
    assert [event.terminal for event in seen].count(True) == 1
