"""What was released keeps its meaning: a change that would break its callers is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).parent / "buf"


def find_image() -> Path:
    """Return the image of the last release."""
    [image] = (ROOT / "tests" / "contract" / "released").glob("klinecast-*.binpb")
    return image


def breaking(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Compare the protos of a checkout with the last release."""
    command = [BUF, "breaking", "--against", find_image()]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60, check=False)


def test_nothing_that_was_released_is_broken() -> None:
    done = breaking(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("int64 after_sequence = 2;", "int64 since_sequence = 2;", 'changed name from "after_sequence"'),
        ("int64 after_sequence = 2;", "int64 after_sequence = 3;", '"2" with name "after_sequence"'),
        ("int64 after_sequence = 2;", "string after_sequence = 2;", 'changed type from "int64" to "string"'),
        ("rpc CancelBacktest(", "rpc StopBacktest(", 'RPC "CancelBacktest"'),
        (") returns (stream WatchBacktestResponse)", ") returns (WatchBacktestResponse)", "streaming"),
    ],
)
def test_a_breaking_change_is_found(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    proto = tmp_path / "protos/klinecast/api/backtest/v1/backtest_service.proto"
    text = proto.read_text()
    assert old in text
    proto.write_text(text.replace(old, new))
    done = breaking(tmp_path)
    assert done.returncode != 0
    assert complaint in done.stdout


def test_a_new_field_breaks_nothing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    proto = tmp_path / "protos/klinecast/api/backtest/v1/backtest_service.proto"
    field = "int64 after_sequence = 2;"
    proto.write_text(proto.read_text().replace(field, f"{field}\n  bool planted = 99;"))
    done = breaking(tmp_path)
    assert done.returncode == 0, done.stdout
