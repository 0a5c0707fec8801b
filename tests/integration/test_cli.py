"""The klinecast command as a process, against the real services."""

import gzip
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from services.local.process import with_variables
from services.local.sample import SAMPLE, generate_sample
from tests.factories import make_columns
from tests.suite import Suite

RANGE = ["--start", "2025-01-01", "--end", "2026-01-01"]
RUN = ["backtest", "run", "dual_ma", "--symbol", "SYNTHETIC", "--interval", "1h", *RANGE, "--no-reuse"]
KEYS = (
    "backtest_id state result_id reused klines initial_cash final_equity open_position statistics timings_ms "
    "report error"
)


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
        ["import", str(SAMPLE), "--symbol", "X", "--interval", "1h", "--format", "kraken"],
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


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Return a directory of a good file with its checksum, a broken one, one with another checksum, and a readme."""
    lines = gzip.decompress(SAMPLE.read_bytes()).splitlines(keepends=True)
    for name, part in (("a.csv", lines[:500]), ("b.csv", [*lines[500:600], b"broken\n"]), ("c.csv", lines[600:900])):
        (tmp_path / name).write_bytes(b"".join(part))
    (tmp_path / "readme.txt").touch()
    digest = hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()
    (tmp_path / "a.csv.CHECKSUM").write_text(f"{digest}  a.csv\n")
    (tmp_path / "c.csv.CHECKSUM").write_text(f"{'0' * 64}  c.csv\n")
    return tmp_path


def test_import_takes_directories_and_goes_on_after_a_refused_file(klinecast, parts: Path) -> None:
    done = klinecast("import", str(parts), str(SAMPLE), "--symbol", "PARTS", "--interval", "1h")
    assert done.returncode == 1, done.stderr
    good, sample, total = done.stdout.splitlines()
    assert "a.csv: inserted 499, updated 0, unchanged 0, rejected 0, checksum ok (" in good
    assert f"{SAMPLE}: inserted 8261, updated 0, unchanged 499, rejected 0 (" in sample
    assert "total of 2 files: inserted 8760, updated 0, unchanged 499, rejected 0, 2 files refused (" in total
    assert total.endswith(" klines/s)")
    skipped, broken, differs = done.stderr.splitlines()
    assert skipped == "skipped 1 other files: readme.txt"
    assert broken.startswith("error: b.csv, line 101: has 1 fields")
    assert differs.startswith("error: c.csv: has the SHA-256")


def test_nothing_of_a_file_with_another_checksum_is_stored(klinecast, parts: Path) -> None:
    done = klinecast("import", str(parts / "c.csv"), "--symbol", "DIFFERS", "--interval", "1h", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [Path(one["file"]).name for one in document["refused"]] == ["c.csv"]
    assert document["total"] == {"inserted": 0, "updated": 0, "unchanged": 0, "rejected": 0}
    assert "DIFFERS" not in klinecast("series").stdout


def test_a_file_broken_late_tells_how_much_was_sent(klinecast, tmp_path: Path) -> None:
    lines = gzip.decompress(SAMPLE.read_bytes()).splitlines(keepends=True)[1:]
    (tmp_path / "late.csv").write_bytes(b"".join([*lines * 4, b"broken\n"]))
    done = klinecast("import", str(tmp_path / "late.csv"), "--symbol", "LATE", "--interval", "1h", "--json")
    (refused,) = json.loads(done.stdout)["refused"]
    assert (refused["line"], refused["klines_sent"]) == (35_041, 32_768)
    assert done.stderr.rstrip().endswith("(the 32,768 klines before that were sent)")


def test_parquet_is_imported_by_its_extension(klinecast, tmp_path: Path) -> None:
    parquet.write_table(pa.table(make_columns(500)), tmp_path / "klines.parquet")
    done = klinecast("import", str(tmp_path), "--symbol", "PARQUET", "--interval", "1h", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert document["total"]["inserted"] == 500
    assert document["files"][0]["checksum_ok"] is False


def test_a_directory_without_klines_is_an_error(klinecast, tmp_path: Path) -> None:
    done = klinecast("import", str(tmp_path), "--symbol", "X", "--interval", "1h")
    assert done.returncode == 1
    assert "holds no file to import" in done.stderr


def test_import_shows_bars_on_a_terminal_only(suite: Suite, klinecast, parts: Path) -> None:
    arguments = ["import", str(parts), "--symbol", "BARS", "--interval", "1h"]
    assert "klines/s" not in klinecast(*arguments).stderr
    stdout, shown = run_on_terminal(suite, arguments)
    assert stdout.splitlines()[0].endswith("klines/s)")
    assert re.search("a.csv +━", shown)
    assert "all files" in shown
    assert "499 klines" in shown


def run_on_terminal(suite: Suite, arguments: list[str]) -> tuple[str, str]:
    """Run the command with a terminal as its standard error; return what it wrote on standard output and there."""
    here, there = pty.openpty()
    variables = {"KLINECAST_DATA_TARGET": suite.target("data"), "TERM": "xterm", "COLUMNS": "120"}
    command = with_variables(variables, [sys.executable, "-m", "klinecast.cli", *arguments])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=there, text=True) as process:
        os.close(there)
        shown = b"".join(iter(lambda: _read_terminal(here), b""))
        stdout = process.stdout.read()
    os.close(here)
    return stdout, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


def _read_terminal(here: int) -> bytes:
    try:
        return os.read(here, 65_536)
    except OSError:  # on Linux the end of a terminal that nobody has open
        return b""


def test_check_tells_what_is_doubtful(klinecast, tmp_path: Path) -> None:
    lines = gzip.decompress(SAMPLE.read_bytes()).splitlines(keepends=True)
    (tmp_path / "gap.csv").write_bytes(b"".join(lines[:100] + lines[103:200]))
    assert klinecast("import", str(tmp_path / "gap.csv"), "--symbol", "GAP", "--interval", "1h").returncode == 0
    done = klinecast("check", "--symbol", "GAP", "--interval", "1h", "--json")
    document = json.loads(done.stdout)
    assert document["counts"] == {"GAP": {"findings": 1, "klines": 3}}
    assert "GAP\t1\t3" in klinecast("check", "--symbol", "GAP", "--interval", "1h").stdout


@pytest.mark.usefixtures("sample")
def test_several_symbols_are_reported_each(klinecast) -> None:
    assert klinecast("import", str(SAMPLE), "--symbol", "SECOND", "--interval", "1h").returncode == 0
    arguments = [*RUN, "--symbol", "SECOND", "--account", "shared"]
    done = klinecast(*arguments, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert list(document) == [*KEYS.split(), "series"]
    assert [one["series"].split()[2] for one in document["series"]] == ["SYNTHETIC", "SECOND"]
    assert document["klines"] == 8760
    table = klinecast(*arguments).stdout
    assert "each series" in table
    assert "BINANCE SPOT SECOND 1h" in table
    assert klinecast(*RUN, "--account", "joint").returncode == 2
