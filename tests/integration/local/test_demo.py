"""The demo's life around the klinecast command, with stand-ins for the command and the services."""

import functools
import sys
import threading
from pathlib import Path

import psutil
import pytest

from services.local import demo
from services.local.ports import FREE_PORTS
from services.local.running import find_running
from services.local.supervisor import StoppedError, run_deployment

PACKAGE = "tests.integration.local.fake_services"
run_fake = functools.partial(run_deployment, package=PACKAGE)


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run_deployment", run_fake)
    monkeypatch.setattr(demo, "COMMAND", (sys.executable, "-m", f"{PACKAGE}.command"))


@pytest.fixture
def home(session_home: Path, request: pytest.FixtureRequest) -> Path:
    """Return a state directory of the test's own."""
    return session_home / request.node.name[5:25]


def run(home: Path, stop: threading.Event | None = None) -> int:
    is_stopping = (stop or threading.Event()).is_set
    before = set(psutil.Process().children(recursive=True))
    try:
        return demo.run_demo(home, is_stopping=is_stopping, embedded_database=True)
    finally:
        left = set(psutil.Process().children(recursive=True)) - before
        assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


def test_demo_imports_then_backtests_and_stops_all(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(home) == 0
    said = capfd.readouterr().out
    assert said.index("command import 127.0.0.1:") < said.index("command backtest 127.0.0.1:")
    assert said.rstrip().endswith(f"The report is {home}/reports/demo.html")
    assert find_running(home) is None


def test_demo_uses_the_running_deployment(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with run_fake("up", home, ports=FREE_PORTS, is_stopping=lambda: False) as (_, running):
        assert run(home) == 0
        assert find_running(home) == running
    assert f"command backtest {running.targets['backtest']}" in capfd.readouterr().out


def test_failed_command_ends_the_demo(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "import")
    assert run(home) == 3
    assert "command backtest" not in capfd.readouterr().out


def test_interrupted_command_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HANG", "backtest")
    monkeypatch.setattr(demo, "_PATIENCE", ((0.1, demo.signal.SIGINT), (5.0, demo.signal.SIGKILL)))
    stop = threading.Event()
    monkeypatch.setattr(demo, "with_variables", stop_when_it_backtests(stop))
    assert run(home, stop) == 130


def stop_when_it_backtests(stop: threading.Event):
    real = demo.with_variables

    def wrapped(variables: dict[str, str], command: list[str]) -> list[str]:
        if "backtest" in command:
            stop.set()
        return real(variables, command)

    return wrapped


def test_interrupt_while_starting_is_passed_on(home: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        run(home, stop)
