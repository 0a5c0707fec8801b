"""What must be as it was once a deployment is quiet again: connections, open files, memory, workers."""

from __future__ import annotations

import time

import psycopg

from services.runtime.database import libpq_url
from tests.faults.deployment import Deployment

WORKERS = 3
HELD = 3 * (8 + 2) + 2 * (WORKERS + 1)
"""Connections at rest, at most: a pool, a probe and a listener for each service; keepers, workers and their spare."""


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


def find_leaks(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Return what has grown too much."""
    most = {
        "connections": HELD,
        "descriptors": before["descriptors"] + 30,
        "megabytes": 1.5 * before["megabytes"],
    }
    return [f"{after[name]:.0f} {name}, at most {limit:.0f}" for name, limit in most.items() if after[name] > limit]
