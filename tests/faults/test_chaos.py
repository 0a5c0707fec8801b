"""Half a minute of chaos on each executor, then single outages; long: `make test-faults`, `make test-recovery`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.runtime.database import libpq_url
from tests.faults.chaos import Chaos
from tests.faults.deployment import EXECUTORS, Deployment, deploy
from tests.faults.recovery import AWAY, RECOVERED_S
from tests.faults.recovery import measure as measure_recovery

BACKTESTS, PER_S, HASTE = 120, 4.0, 3.0
WORKERS = 2
HELD = 3 * (8 + 2) + 2 * (WORKERS + 1)
"""Connections at rest, at most: a pool, a probe and a listener for each service; keepers, workers and their spare."""


@pytest.fixture(scope="module", params=EXECUTORS)
def deployment(session_home: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Return a deployment to be killed at will, shared by the tests on its executor."""
    with deploy(session_home / f"chaos-{request.param}", request.param) as deployment:
        yield deployment


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_doubled_while_everything_dies(deployment: Deployment, seed: int) -> None:
    before = measure(deployment)
    chaos = Chaos(deployment.suite, deployment.server, deployment.url, deployment.broker, seed, haste=HASTE)
    report = chaos.run(BACKTESTS, PER_S)
    after = measure(deployment)
    print(f"\n{report}\n{before} -> {after}")
    assert report.verdict.clean, report.verdict
    assert report.faults["postgres"] >= 1
    assert sum(report.faults.values()) >= 4, report.faults
    assert after["connections"] <= HELD
    assert after["descriptors"] <= before["descriptors"] + 30
    assert after["megabytes"] <= 1.5 * before["megabytes"]


def test_callers_are_served_within_two_seconds_of_a_return(deployment: Deployment) -> None:
    away = [name for name in AWAY if name != "broker" or deployment.broker is not None]
    recoveries = [measure_recovery(deployment, name, 1.0) for name in away]
    print("", *recoveries, sep="\n")
    assert max(max(one.first_ok.values()) for one in recoveries) <= RECOVERED_S


def measure(deployment: Deployment) -> dict[str, float]:
    """Count what must not grow: connections, open files, memory; and wait until there are as many workers as ever."""
    services = [deployment.suite.process(name) for name in ("data", "results", "backtest")]
    parents = [one.process for one in deployment.suite.workers] or services[-1:]
    deadline = time.monotonic() + 20  # a worker and its spare take a moment to start
    while len(children := [child for parent in parents for child in parent.children()]) != WORKERS + 1:
        assert time.monotonic() < deadline, children
        time.sleep(0.1)
    with psycopg.connect(libpq_url(deployment.url)) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        connections = connection.execute(query).fetchone()
    assert connections is not None
    return {
        "connections": connections[0],
        "descriptors": sum(one.num_fds() for one in services),
        "megabytes": sum(one.memory_info().rss for one in services) / 1e6,
    }
