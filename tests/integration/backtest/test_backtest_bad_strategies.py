"""Whatever a strategy does, its backtest FAILED with the reason, and the next backtest is unharmed."""

from __future__ import annotations

import re

import psutil
import pytest

from klinecast.types import ExecutionModel
from tests.factories import make_config


@pytest.fixture
def client(suite):
    with suite.client() as client:
        yield client


def failure(client, strategy: str, **options):
    event = list(client.run_backtest(make_config(client, strategy=strategy, **options)))[-1]
    assert event.state == "FAILED"
    assert strategy in event.error.message
    return event.error


@pytest.fixture(autouse=True)
def the_next_backtest_is_unharmed(client):
    yield
    assert list(client.run_backtest(make_config(client)))[-1].state == "SUCCEEDED"


@pytest.mark.parametrize(
    ("how", "reason", "index", "text"),
    [
        ("list", "INVALID_SIGNALS", None, "returned list instead of Signals"),
        ("none", "INVALID_SIGNALS", None, "returned NoneType instead of Signals"),
        ("text", "INVALID_SIGNALS", None, "returned str instead of Signals"),
        ("short", "INVALID_SIGNALS", None, "499 values for 500 klines"),
        ("long", "INVALID_SIGNALS", None, "501 values for 500 klines"),
        ("table", "INVALID_SIGNALS", None, "for 500 klines"),
        ("infinite", "INVALID_EXPOSURE", 5, "the target is infinite"),
        ("leverage", "INVALID_EXPOSURE", 5, "exceeds max_leverage"),
        ("stop", "INVALID_SIGNALS", 5, "a protective distance is not above 0"),
        ("both", "INVALID_SIGNALS", 0, "given twice"),
    ],
)
def test_signals_that_cannot_be_simulated(client, how, reason, index, text):
    error = failure(client, "garbage", params={"how": how})
    assert (error.reason, error.kline_index) == (reason, index)
    assert text in error.message


def test_signals_of_another_length_are_refused_with_warm_up_too(client):
    config = make_config(client, strategy="garbage", params={"how": "short"})
    early = {"start_ms": config.start_ms + 100 * 3_600_000, "warmup_klines": 50}
    event = list(client.run_backtest(type(config)(**{**_fields(config), **early})))[-1]
    assert (event.state, event.error.reason) == ("FAILED", "INVALID_SIGNALS")


def _fields(config) -> dict[str, object]:
    return {name: getattr(config, name) for name in type(config).__dataclass_fields__}


def test_a_strategy_that_writes_over_the_klines_only_fools_itself(client):
    config = make_config(client, strategy="garbage", params={"how": "spoil"})
    spoiled = list(client.run_backtest(config))[-1]
    held = list(client.run_backtest(type(config)(**{**_fields(config), "strategy": "buy_and_hold", "params": {}})))[-1]
    results = [client.get_result(str(event.result_id)) for event in (spoiled, held)]
    assert results[0].final_equity == results[1].final_equity


@pytest.mark.parametrize(
    ("how", "reason", "text"),
    [
        ("raise", "STRATEGY_FAILED", "raised ZeroDivisionError at kline 17: stumbled"),
        ("leverage", "INVALID_EXPOSURE", "exceeds max_leverage"),
        ("nan", "INVALID_EXPOSURE", "the target is nan"),
    ],
)
def test_an_event_strategy_that_stumbles(client, how, reason, text):
    error = failure(client, "stumble", params={"at": 17, "how": how})
    assert (error.reason, error.kline_index) == (reason, 17)
    assert text in error.message
    if how == "raise":
        assert 'File "stumble.py", line' in error.detail
        assert "/" not in error.detail
        assert "runner" not in error.detail


def test_an_event_strategy_that_never_ends(client):
    error = failure_by_deadline(client)
    assert error.reason == "BACKTEST_DEADLINE"


def failure_by_deadline(client):
    config = make_config(client, strategy="stumble", params={"at": 3, "how": "loop"}, deadline_s=1.5)
    event = list(client.run_backtest(config))[-1]
    assert event.state == "FAILED"
    return event.error


def test_a_strategy_that_raises_tells_its_author_and_nobody_else(client):
    error = failure(client, "crash", params={"how": "raise"})
    assert error.reason == "STRATEGY_FAILED"
    assert 'File "crash.py", line' in error.detail
    assert "/" not in error.detail + error.message


def test_a_text_that_no_database_holds_is_told_as_far_as_it_can_be(client):
    error = failure(client, "crash", params={"how": "garbled"})
    assert error.reason == "STRATEGY_FAILED"
    assert "a file named ? with a " in error.message


@pytest.mark.parametrize("how", ["sys_exit", "os_exit", "kill", "orphan"])
def test_a_strategy_that_ends_its_process_uses_up_its_attempts(client, how):
    event = list(client.run_backtest(make_config(client, strategy="crash", params={"how": how})))[-1]
    assert (event.state, event.error.reason) == ("FAILED", "ATTEMPTS_EXHAUSTED")
    workers = set(re.findall(r"worker ([0-9a-f-]{36})", event.error.detail))
    assert len(workers) == 5
    assert not [one for one in psutil.process_iter(["cmdline"]) if workers & set(one.info["cmdline"] or ())]


def test_a_short_where_none_is_allowed_names_its_kline(client):
    error = failure(client, "dual_ma", mode="long_short", execution=ExecutionModel(allow_short=False))
    assert error.reason == "INVALID_EXPOSURE"
    assert error.kline_index is not None
