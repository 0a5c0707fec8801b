"""One replica of each member is restarted, all at the same time; `make test-rolling` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests.faults.fleet import MEMBERS, run_fleet
from tests.faults.rolling import Rolling


def test_nobody_notices_a_rolling_restart(session_home: Path, database_url: str) -> None:
    with run_fleet(session_home / "rolling", database_url) as fleet:
        report = Rolling(fleet).run(0)
    print(f"\n{report}")
    assert {name: len(times) for name, times in report.restarts.items()} == dict.fromkeys(MEMBERS, 1)
    assert report.failures == {}
    assert report.verdict.clean, report.verdict
    assert min(map(len, report.tally.seconds.values())) >= 1
