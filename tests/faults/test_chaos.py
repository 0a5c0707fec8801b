"""Half a minute of chaos on each executor; `make test-faults` and `make soak-chaos` are the long forms."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from services.runtime.database import libpq_url
from tests.faults.chaos import Chaos
from tests.faults.deployment import EXECUTORS, Deployment, deploy

BACKTESTS, PER_S, HASTE = 120, 4.0, 3.0


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
    assert after["workers"] == before["workers"]
    assert after["connections"] <= before["connections"] + 8
    assert after["descriptors"] <= before["descriptors"] + 30
    assert after["megabytes"] <= 1.5 * before["megabytes"]


def measure(deployment: Deployment) -> dict[str, float]:
    """Count what must not grow: worker processes, connections, open files, memory."""
    services = [deployment.suite.process(name) for name in ("data", "results", "backtest")]
    parents = [one.process for one in deployment.suite.workers] or services[-1:]
    with psycopg.connect(libpq_url(deployment.url)) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        connections = connection.execute(query).fetchone()
    assert connections is not None
    return {
        "workers": sum(len(parent.children()) for parent in parents),
        "connections": connections[0],
        "descriptors": sum(one.num_fds() for one in services),
        "megabytes": sum(one.memory_info().rss for one in services) / 1e6,
    }
