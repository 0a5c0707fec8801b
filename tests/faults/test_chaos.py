"""Half a minute of chaos on each executor; `make test-faults` and `make soak-chaos` are the long forms."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from services.runtime.database import libpq_url
from tests.faults.chaos import Chaos
from tests.faults.deployment import EXECUTORS, Deployment, deploy

BACKTESTS, PER_S, HASTE = 120, 4.0, 3.0
WORKERS = 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_nothing_is_lost_or_doubled_while_everything_dies(session_home: Path, executor: str, seed: int) -> None:
    with deploy(session_home / f"chaos-{executor}", executor) as deployment:
        before = measure(deployment)
        chaos = Chaos(deployment.suite, deployment.server, deployment.url, deployment.broker, seed, haste=HASTE)
        report = chaos.run(BACKTESTS, PER_S)
        after = measure(deployment)
    print(f"\n{executor}: {report}\n{before} -> {after}")
    assert report.verdict.clean, report.verdict
    assert report.faults["postgres"] >= 1
    assert sum(report.faults.values()) >= 4, report.faults
    assert after["connections"] <= before["connections"] + 8
    assert after["descriptors"] <= before["descriptors"] + 30
    assert after["megabytes"] <= 1.5 * before["megabytes"]


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
