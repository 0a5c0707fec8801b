"""Half a minute of chaos on each executor, then single outages; long: `make test-faults`, `make test-recovery`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.baseline import find_leaks, measure
from tests.faults.chaos import MAX_RUNNING, SETTINGS, Chaos
from tests.faults.deployment import EXECUTORS, Deployment, deploy
from tests.faults.recovery import AWAY, RECOVERED_S
from tests.faults.recovery import measure as measure_recovery

BACKTESTS, PER_S, HASTE = 120, 4.0, 3.0


@pytest.fixture(scope="module", params=EXECUTORS)
def deployment(session_home: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Return a deployment to be killed at will, shared by the tests on its executor."""
    with deploy(session_home / f"chaos-{request.param}", request.param, **SETTINGS) as deployment:
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
    assert report.most_running == MAX_RUNNING, "A19: a limit that binds is reached and never passed"
    assert not find_leaks(before, after)


def test_callers_are_served_within_two_seconds_of_a_return(deployment: Deployment) -> None:
    away = [name for name in AWAY if name != "broker" or deployment.broker is not None]
    recoveries = [measure_recovery(deployment, name, 1.0) for name in away]
    print("", *recoveries, sep="\n")
    assert max(max(one.first_ok.values()) for one in recoveries) <= RECOVERED_S
