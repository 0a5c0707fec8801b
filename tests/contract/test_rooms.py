"""The arrows between the rooms and the spelling of the settings hold."""

import subprocess
import sys
from pathlib import Path

from services.backtest.settings import BacktestSettings, WorkerSettings
from services.data.settings import DataSettings
from services.local.settings import LocalSettings
from services.results.settings import ResultsSettings
from services.runtime.config import setting_names
from services.runtime.known_settings import KNOWN_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
CLIENT = {"KLINECAST_DATA_TARGET", "KLINECAST_BACKTEST_TARGET", "KLINECAST_RESULTS_TARGET"}


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


def test_known_settings_are_the_union_of_what_is_declared() -> None:
    declared = set().union(
        *map(setting_names, (DataSettings, BacktestSettings, WorkerSettings, ResultsSettings, LocalSettings))
    )
    assert declared | CLIENT == set(KNOWN_SETTINGS)


def test_only_the_runtime_reads_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for room in ("klinecast", "services")
        for path in sorted((ROOT / room).rglob("*.py"))
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    assert readers == ["services/runtime/config.py"]
