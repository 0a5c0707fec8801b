"""Addresses, port files and the supervisor's pipe."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.runtime.lifecycle import is_loopback, split_address, write_port_file


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:50051", ("::1", 50051)), ("localhost:1", ("localhost", 1))],
)
def test_addresses_are_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["localhost", "localhost:http", "localhost:99999", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(address)


def test_only_loopback_is_loopback() -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", "10.0.0.1", "example.org")
    assert [is_loopback(host) for host in hosts] == [True, True, True, False, False, False, False, False]


def test_port_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    path.write_text("old")
    write_port_file(str(path), {"port": 1, "metrics_port": 2})
    assert json.loads(path.read_text()) == {"port": 1, "metrics_port": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_process_stops_when_its_supervisor_is_gone() -> None:
    read_end, write_end = os.pipe()
    program = (
        "import sys, signal; from services.runtime.lifecycle import stop_with_supervisor\n"
        "stop_with_supervisor(int(sys.argv[1])); print('ready', flush=True); signal.pause()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(read_end)], pass_fds=[read_end], stdout=subprocess.PIPE
    )
    with child:
        os.close(read_end)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        os.close(write_end)
        assert child.wait(10) == -signal.SIGTERM
