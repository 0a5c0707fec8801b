"""A client of the last release does the whole journey against today's services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.contract.test_released_protos import find_image
from tests.suite import Suite

CLIENT = Path(__file__).parent / "released_client.py"


def generate(home: Path) -> None:
    """Write the package klinecast.api as it was released, with nothing else in it."""
    image = find_image()
    names = [file.name for file in FileDescriptorSet.FromString(image.read_bytes()).file]
    ours = [name for name in names if name.startswith("klinecast/")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={image}"]
    subprocess.run([*command, f"--python_out={home}", f"--grpc_python_out={home}", *ours], check=True, timeout=60)
    (home / "klinecast" / "__init__.py").touch()  # wins over today's package
    (home / "klinecast" / "api" / "__init__.py").touch()


def test_a_client_of_the_last_release_does_the_whole_journey(suite: Suite, tmp_path: Path) -> None:
    generate(tmp_path)
    targets = [suite.target(name) for name in ("data", "backtest", "results")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", str(CLIENT), *targets]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["package"] == str(tmp_path / "klinecast" / "__init__.py")
    assert (found["klines"], found["kline_count"], found["same"]) == (500, 500, True)
    assert (found["state"], found["result_id"]) == ("BACKTEST_STATE_SUCCEEDED", found["backtest_id"])
    assert found["contiguous"]
    assert {"rsi", "dual_ma", "macd", "bollinger"} <= set(found["strategies"])
    assert found["refused"] == "INVALID_ARGUMENT"
    assert (found["listed"], found["equity"]) == (True, 500)
    assert found["trades"] == found["trade_count"] > 0
