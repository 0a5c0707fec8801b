"""The klinecast command as a process."""

import subprocess
import sys

import pytest

from services.local.process import with_variables
from tests.suite import Suite


@pytest.fixture
def klinecast(suite: Suite):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        targets = {f"KLINECAST_{name.upper()}_TARGET": suite.target(name) for name in ("data", "backtest", "results")}
        command = with_variables(targets, [sys.executable, "-m", "klinecast.cli", *arguments])
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run
