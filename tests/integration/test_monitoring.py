"""What alerts and the dashboard read is on the pages of running processes, series by series, after a little work."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator

import pytest

from klinecast.client import Client
from klinecast.errors import NotFound
from tests.factories import make_config
from tests.k8s.monitoring import dashboard_expressions, load_dashboard, load_rules, unmet
from tests.k8s.promql import Selector, selectors
from tests.suite import Suite

NEVER_HERE = {"up"}
"""Prometheus adds it."""
FAULTS = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED"}


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with suite.client() as client:
        yield client


def page(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics") as response:
        return str(response.read().decode())


def wanted() -> list[Selector]:
    """Return what is read, but for series that only a fault of ours makes."""
    recorded = {rule["record"] for rule in load_rules() if "record" in rule}
    expressions = [rule["expr"] for rule in load_rules()] + dashboard_expressions(load_dashboard())
    found = [selector for one in expressions for selector in selectors(one)]
    return [one for one in found if one.metric not in recorded | NEVER_HERE and not _is_of_faults(one)]


def _is_of_faults(selector: Selector) -> bool:
    return any(name == "grpc_code" and set(value.split("|")) <= FAULTS for name, _, value in selector.matchers)


def test_every_series_that_is_read_is_there(suite: Suite, client: Client) -> None:
    config = make_config(client)
    event = list(client.run_backtest(config))[-1]
    for _ in range(2):
        client.load_equity(str(event.result_id))
        client.load_klines(config.series, config.start_ms, config.end_ms)
    with pytest.raises(NotFound):
        client.get_result("00000000-0000-7000-8000-000000000000")
    pages = [page(suite.metrics(name)) for name in ("data", "backtest", "results")]
    assert unmet(wanted(), pages) == []


def test_the_age_of_the_queue_grows_while_nothing_runs(own_suite: Suite) -> None:
    with own_suite.client() as client:
        config = make_config(client, strategy="slow", params={"seconds": 30.0})
        for _ in range(4):
            client.create_backtest(config)
        deadline = time.monotonic() + 20
        while value(page(own_suite.metrics("backtest")), "klinecast_backtest_queue_age_seconds") < 1.5:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shown = page(own_suite.metrics("backtest"))
    assert value(shown, "klinecast_backtest_queued") == 2
    assert value(shown, "klinecast_backtest_active") == 2
    assert value(shown, "klinecast_backtest_worker_memory_bytes") > 100e6
    assert value(shown, "klinecast_backtest_worker_cpu_seconds_total") > 0.1
    assert value(shown, 'klinecast_backtest_database_connections{state="in_use"}') >= 0
    assert value(shown, "klinecast_backtest_database_connections_limit") == 12


def value(shown: str, series: str) -> float:
    return next(float(line.rpartition(" ")[2]) for line in shown.splitlines() if line.startswith(f"{series} "))
