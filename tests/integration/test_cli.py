"""The klinecast command as a process, against the real services."""

import gzip
import hashlib
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
    assert done.returncode == 1, done.stderr
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

    assert gzip.decompress(SAMPLE.read_bytes()).decode() == generate_sample()


def test_import_takes_directories_and_goes_on_after_a_refused_file(klinecast, tmp_path: Path) -> None:
    lines = gzip.decompress(SAMPLE.read_bytes()).splitlines(keepends=True)
    for name, part in (("a.csv", lines[:500]), ("b.csv", [*lines[500:600], b"broken\n"]), ("c.csv", lines[600:900])):
        (tmp_path / name).write_bytes(b"".join(part))
    (tmp_path / "readme.txt").touch()
    digest = hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()
    (tmp_path / "a.csv.CHECKSUM").write_text(f"{digest}  a.csv\n")
    (tmp_path / "c.csv.CHECKSUM").write_text(f"{'0' * 64}  c.csv\n")
    done = klinecast("import", str(tmp_path), "--symbol", "PARTS", "--interval", "1h")
    assert done.returncode == 1, done.stderr
    assert "a.csv: inserted 499" in done.stdout, done.stderr
    assert "checksum ok" in done.stdout
    assert "klines/s" in done.stdout
    problems = done.stderr.splitlines()
    assert problems[0] == "skipped 1 other files: readme.txt"
    assert problems[1].startswith("error: b.csv, line 101: has 1 fields")
    assert problems[2].startswith("error: c.csv: has the SHA-256")


def test_check_tells_what_is_doubtful(klinecast, tmp_path: Path) -> None:
    lines = gzip.decompress(SAMPLE.read_bytes()).splitlines(keepends=True)
    (tmp_path / "gap.csv").write_bytes(b"".join(lines[:100] + lines[103:200]))
    assert klinecast("import", str(tmp_path / "gap.csv"), "--symbol", "GAP", "--interval", "1h").returncode == 0
    done = klinecast("check", "--symbol", "GAP", "--interval", "1h", "--json")
    document = json.loads(done.stdout)
    assert document["counts"] == {"GAP": {"findings": 1, "klines": 3}}
    assert "GAP\t1\t3" in klinecast("check", "--symbol", "GAP", "--interval", "1h").stdout
