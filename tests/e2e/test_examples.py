"""The example strategies are installed as a user would, found, looked at, and run on the services."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.factories import make_config
from tests.suite import run_suite

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "strategies"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return a folder with the distribution in it, built and installed by pip."""
    folder = tmp_path_factory.mktemp("examples")
    command = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *command, "--target", str(folder), str(PACKAGE)], check=True)
    return folder


@pytest.fixture
def example_suite(installed, session_home, database_url, monkeypatch):
    """Return services of which every process finds the examples."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    with run_suite(session_home / f"suite-{uuid.uuid4().hex[:8]}", database_url) as suite:
        yield suite


def test_the_example_strategies_run(example_suite):
    with example_suite.client() as client:
        listed = {strategy.name: strategy for strategy in client.list_strategies()}
        assert {"momentum", "dip_ladder"} <= set(listed)
        assert listed["momentum"].warmup == 24
        for name, params in (("momentum", {"lookback": 12}), ("dip_ladder", {"steps": 4, "spacing": 0.005})):
            events = list(client.run_backtest(make_config(client, strategy=name, params=params)))
            assert events[-1].state == "SUCCEEDED", events[-1]
            result = client.get_result(str(events[-1].result_id))
            assert result.statistics["trade_count"] > 0
            assert result.klines == 500
    verdicts = [line for line in example_suite.log("backtest").splitlines() if '"logger": "vetting"' in line]
    assert not [line for line in verdicts if '"momentum"' in line or '"dip_ladder"' in line]
