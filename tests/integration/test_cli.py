"""The klinecast command as a process, against the real services."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.local.process import with_variables
from services.local.sample import SAMPLE, generate_sample
from tests.suite import Suite

RANGE = ["--start", "2025-01-01", "--end", "2026-01-01"]
RUN = ["backtest", "run", "dual_ma", "--symbol", "SYNTHETIC", "--interval", "1h", *RANGE, "--no-reuse"]
KEYS = (
    "backtest_id state result_id reused klines initial_cash final_equity open_position statistics timings_ms "
    "report error"
)


@pytest.fixture
def klinecast(suite: Suite):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        targets = {f"KLINECAST_{name.upper()}_TARGET": suite.target(name) for name in ("data", "backtest", "results")}
        command = with_variables(targets, [sys.executable, "-m", "klinecast.cli", *arguments])
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def sample(klinecast) -> None:
    done = klinecast("import", str(SAMPLE), "--symbol", "SYNTHETIC", "--interval", "1h")
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("sample")
def test_importing_again_changes_nothing(klinecast) -> None:
    done = klinecast("import", str(SAMPLE), "--symbol", "SYNTHETIC", "--interval", "1h", "--json")
    total = json.loads(done.stdout)["total"]
    assert total == {"inserted": 0, "updated": 0, "unchanged": 8760, "rejected": 0}


@pytest.mark.usefixtures("sample")
def test_run_prints_one_document_and_writes_a_report(klinecast, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = klinecast(*RUN, "-p", "fast=10", "-p", "slow=30", "--report", str(report), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert list(document) == KEYS.split()
    assert document["state"] == "SUCCEEDED"
    assert document["klines"] == 8760
    page = report.read_text()
    assert "<script" in page
    assert "src=" not in page


@pytest.mark.usefixtures("sample")
def test_a_refused_request_is_one_clear_line_and_exit_code_1(klinecast) -> None:
    done = klinecast(*RUN, "-p", "fats=10")
    assert done.returncode == 1
    assert "did you mean fast" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["backtest", "run"],
        [*RUN, "--mode", "sideways"],
        [*RUN, "--execution", "slipage_bps=1"],
        ["gaps", "--symbol", "X", "--interval", "7m"],
    ],
)
def test_wrong_usage_is_exit_code_2(klinecast, arguments: list[str]) -> None:
    assert klinecast(*arguments).returncode == 2


@pytest.mark.usefixtures("sample")
def test_listings_print(klinecast) -> None:
    assert "SYNTHETIC" in klinecast("series").stdout
    assert klinecast("gaps", "--symbol", "SYNTHETIC", "--interval", "1h", "--json").stdout.strip() == "[]"
    assert "dual_ma" in klinecast("strategies").stdout
    assert json.loads(klinecast("backtest", "list", "--json").stdout) is not None
    assert json.loads(klinecast("results", "list", "--json").stdout) is not None


def test_the_shipped_sample_is_what_the_generator_makes() -> None:
    import gzip

    assert gzip.decompress(SAMPLE.read_bytes()).decode() == generate_sample()
