"""Strategies are looked at once: one that looks ahead is refused, one that cannot be judged is not."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from klinecast.errors import InvalidArgument
from services.backtest.strategies.lookahead import Finding
from services.backtest.vetting import look_at
from services.runtime.database import libpq_url
from tests.factories import make_config


def test_a_strategy_that_peeks_is_refused_with_the_kline(own_suite, database_url):
    with own_suite.client() as client:
        with pytest.raises(InvalidArgument, match=r"peek looks ahead: its decision at kline \d+") as caught:
            client.create_backtest(make_config(client, strategy="peek"))
        assert caught.value.reason == "UNKNOWN_STRATEGY"
        assert [violation.field for violation in caught.value.violations] == ["config.strategy"]
        names = [strategy.name for strategy in client.list_strategies()]
        assert "peek" not in names
        assert {"dual_ma", "slow", "hang"} <= set(names)
    with psycopg.connect(libpq_url(database_url)) as connection:
        rows = connection.execute(
            "SELECT kline_index FROM backtest.strategy_verdicts WHERE strategy = 'peek'"
        ).fetchall()
    assert rows == [(0,)]
    assert "strategy_refused" in own_suite.log("backtest")


def test_the_verdict_is_remembered_by_the_hash_of_the_code(own_suite, database_url):
    with own_suite.client() as client, pytest.raises(InvalidArgument, match="looks ahead"):
        client.create_backtest(make_config(client, strategy="peek"))
    own_suite.kill("backtest")
    with psycopg.connect(libpq_url(database_url)) as connection:
        connection.execute("UPDATE backtest.strategy_verdicts SET kline_index = 123 WHERE strategy = 'peek'")
    own_suite.start("backtest")
    with own_suite.client() as client, pytest.raises(InvalidArgument, match="at kline 123"):
        client.create_backtest(make_config(client, strategy="peek"))


async def test_a_strategy_that_hangs_or_ends_its_process_costs_only_its_own_verdict(monkeypatch):
    monkeypatch.setattr("services.backtest.vetting.LOOK_S", 1.0)
    start = time.monotonic()
    found = {name: finding async for name, finding in look_at(["hang", "dual_ma", "crash", "peek"])}
    assert time.monotonic() - start < 60
    assert found["dual_ma"] == Finding()
    assert found["peek"].kline_index == 0
    assert "longer than 1 s" in str(found["hang"].unproven)
    assert "crash was asked to crash" in str(found["crash"].unproven)
    await asyncio.sleep(0)
