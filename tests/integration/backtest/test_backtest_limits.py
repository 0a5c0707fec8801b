"""What is over a limit is refused at once, and told which limit and when to come again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from klinecast.errors import ResourceExhausted
from tests import postgres
from tests.factories import make_config
from tests.suite import Suite, run_suite

SETTINGS = {
    "WORKERS": "0",  # nothing runs: what is queued stays queued
    "MAX_KLINES": "600",
    "TENANT__MAX_QUEUED": "2",
    "TENANTS": '{"big": {"max_queued": 3}, "spent": {"daily_klines": 700}}',
}


@pytest.fixture(scope="module")
def limited(session_home: Path, postgres_server, template_database: str) -> Iterator[Suite]:
    with (
        postgres.copy_database(postgres_server, template_database) as url,
        run_suite(session_home / "limited", url, **SETTINGS) as suite,
    ):
        yield suite


@pytest.mark.parametrize(("tenant", "most"), [("small", 2), ("big", 3)])
def test_a_tenant_queues_so_many(limited: Suite, tenant: str, most: int) -> None:
    with limited.client(tenant=tenant) as client:
        config = make_config(client)
        ids = [client.create_backtest(config, request_id=f"r{n}").backtest_id for n in range(most)]
        with pytest.raises(ResourceExhausted) as refused:
            client.create_backtest(config)
        assert client.create_backtest(config, request_id="r0").backtest_id == ids[0]  # taken once, it stays taken
        client.cancel_backtest(ids[0])
        client.create_backtest(config)
    assert refused.value.quota[0].subject == tenant
    assert str(most) in refused.value.quota[0].description
    assert refused.value.retry_after_s == 5.0


def test_a_tenant_reads_so_many_klines_a_day(limited: Suite) -> None:
    with limited.client(tenant="spent") as client:
        client.create_backtest(make_config(client, klines=500))
        with pytest.raises(ResourceExhausted) as refused:
            client.create_backtest(make_config(client, klines=201))
        client.create_backtest(make_config(client, klines=200))
    assert "500 are spent" in refused.value.quota[0].description
    assert 0 < (refused.value.retry_after_s or 0) <= 86_400


def test_an_absurd_backtest_is_never_queued(limited: Suite) -> None:
    with limited.client(tenant="absurd") as client:
        with pytest.raises(ResourceExhausted) as refused:
            client.create_backtest(make_config(client, klines=601))
        assert not list(client.list_backtests())
    assert "601" in str(refused.value)
    assert refused.value.retry_after_s is None  # waiting would not help
