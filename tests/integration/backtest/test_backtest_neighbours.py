"""The service and its workers ask data and results for the tenant, and keep their trouble with them to themselves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from klinecast.errors import Unavailable
from tests.factories import make_columns, make_config, make_series
from tests.suite import Suite, run_suite


def test_every_call_counts_against_the_tenant_whose_backtest_it_is(suite: Suite) -> None:
    with suite.client(tenant="whose") as client:
        config = make_config(client, allow_reuse=True)
        assert [list(client.run_backtest(config))[-1].reused for _ in range(2)] == [False, True]
    deadline = time.monotonic() + 20  # a call is logged after it was answered
    while not called_by(suite, "whose") >= {"GetRange", "StreamKlines", "SaveResult", "UpdateRetention"}:
        assert time.monotonic() < deadline, called_by(suite, "whose")
        time.sleep(0.1)


def called_by(suite: Suite, tenant: str) -> set[str]:
    """Return the RPCs of data and results that a tenant's calls are logged with; gRPC's core has lines of its own."""
    lines = [line for name in ("data", "results") for line in suite.log(name).splitlines()]
    ours = [json.loads(line) for line in lines if line[:1] + line[-1:] == "{}"]
    calls = [one for one in ours if one.get("event") == "rpc" and one["tenant"] == tenant]
    return {one["method"].rpartition("/")[2] for one in calls}


def test_a_tenant_that_takes_all_its_streams_holds_up_its_own_backtests_only(database_url: str, tmp_path: Path) -> None:
    begun, released = threading.Event(), threading.Event()

    def held() -> Iterator[dict[str, np.ndarray]]:
        yield make_columns(1)
        begun.set()
        released.wait()

    with (
        run_suite(tmp_path / "suite", database_url, LIMITS__TENANT_MAX_STREAMS="1") as suite,
        suite.client() as client,
        suite.client(tenant="other") as other,
        ThreadPoolExecutor(1) as pool,
    ):
        own, theirs = make_config(client), make_config(other)
        holding = pool.submit(client.ingest_klines, make_series(), held())
        try:
            assert begun.wait(30)
            backtest_id = client.create_backtest(own).backtest_id
            assert list(other.run_backtest(theirs))[-1].state == "SUCCEEDED"
            assert client.get_backtest(backtest_id).state == "RUNNING"
        finally:
            released.set()
        holding.result()
        assert list(client.watch_backtest(backtest_id))[-1].state == "SUCCEEDED"


def test_callers_learn_of_a_neighbour_that_is_away_and_nothing_of_its_place(own_suite: Suite) -> None:
    with own_suite.client() as client:
        config = make_config(client)
    own_suite.kill("data")
    with own_suite.client(timeout_s=5.0) as client, pytest.raises(Unavailable) as raised:
        client.create_backtest(config)
    assert str(raised.value) == "the data service is unavailable"


def test_a_credential_that_cannot_be_read_is_no_fault_of_the_caller_and_ends_no_backtest(
    database_url: str, tmp_path: Path
) -> None:
    token, aside = tmp_path / "token", tmp_path / "aside"
    token.write_text("any")
    with run_suite(tmp_path / "suite", database_url, CLIENT__TOKEN_FILE=str(token)) as suite, suite.client() as client:
        running = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 2.0}))
        events = client.watch_backtest(running.backtest_id)
        next(event for event in events if event.state == "RUNNING")
        token.rename(aside)
        with suite.client(timeout_s=4.0) as impatient, pytest.raises(Unavailable) as raised:
            impatient.create_backtest(make_config(client))
        assert str(raised.value) == "the data service is unavailable"
        aside.rename(token)
        assert list(events)[-1].state == "SUCCEEDED"
