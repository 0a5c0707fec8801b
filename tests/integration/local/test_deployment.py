"""The supervisor with stand-ins for the services and a real Postgres: start, restart, stop, one owner per home."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from services.local.ports import FREE_PORTS, Ports, PortTakenError, check_ports
from services.local.running import HomeTakenError, find_running, hold_home, is_serving
from services.local.settings import CHECKOUT
from services.local.supervisor import Deployment, DeploymentError, StoppedError

PACKAGE = "tests.integration.local.fake_services"


@pytest.fixture
def home(session_home: Path, request: pytest.FixtureRequest) -> Path:
    """Return an existing state directory of the test's own."""
    directory = session_home / request.node.name[5:25]
    directory.mkdir()
    return directory


@contextlib.contextmanager
def deployment(home: Path, *, stopping: bool = False, package: str = PACKAGE) -> Iterator[Deployment]:
    made = Deployment(home, ports=FREE_PORTS, is_stopping=lambda: stopping, package=package)
    try:
        yield made
    finally:
        made.stop()


def descendants() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if is_alive(child)]


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def tend_until(deployment: Deployment | None, condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the deployment did not recover in time"
        if deployment is not None:
            deployment.tend()
        time.sleep(0.05)


def process_of(service: str) -> psutil.Process:
    [found] = [process for process in descendants() if f"{PACKAGE}.{service}" in process.cmdline()]
    return found


def test_all_parts_come_up_and_all_go(home: Path) -> None:
    before = {process.pid for process in descendants()}
    with deployment(home) as made:
        running = made.start("up")
        assert find_running(home) == running
        assert set(running.client_environment()) == {f"KLINECAST_{n}_TARGET" for n in ("DATA", "BACKTEST", "RESULTS")}
    assert find_running(home) is None
    assert {process.pid for process in descendants()} <= before


def test_backtest_is_told_where_the_others_are(home: Path) -> None:
    with deployment(home) as made:
        made.start("up")
        told = (home / "logs" / "backtest.log").read_text()
    assert "KLINECAST_DATA_TARGET" in told
    assert "KLINECAST_RESULTS_TARGET" in told


@pytest.fixture
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start what died again at once instead of after five seconds."""
    for module in ("process", "supervisor"):
        monkeypatch.setattr(f"services.local.{module}.RESTART_SECONDS", 0.1)


@pytest.mark.usefixtures("_eager")
def test_dead_service_returns_on_its_port(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with deployment(home) as made:
        running = made.start("up")
        process_of("data").kill()
        tend_until(made, lambda: find_running(home) is None)
        tend_until(made, lambda: is_serving(running.targets["data"]))
    assert "data ended with code -9" in capfd.readouterr().out


def test_dead_service_is_not_started_at_once(home: Path) -> None:
    with deployment(home) as made:
        running = made.start("up")
        dead = process_of("data")
        dead.kill()
        tend_until(made, lambda: not is_serving(running.targets["data"]))
        for _ in range(10):
            made.tend()
        assert not is_serving(running.targets["data"])


@pytest.mark.usefixtures("_eager")
def test_dead_postgres_returns_at_its_url(home: Path) -> None:
    with deployment(home) as made:
        made.start("up")
        pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        url = f"postgresql://klinecast@/klinecast?host={home}/postgres/socket"
        tend_until(made, lambda: not psutil.pid_exists(pid))
        tend_until(made, lambda: answers(url))


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_service_that_does_not_start_shows_its_log(home: Path) -> None:
    expected = pytest.raises(DeploymentError, match="no settings, no service")
    with deployment(home, package=f"{PACKAGE}.broken") as made, expected:
        made.start("up")
    assert find_running(home) is None


def test_stopping_while_starting_leaves_nothing(home: Path) -> None:
    before = {process.pid for process in descendants()}
    with deployment(home, stopping=True) as made, pytest.raises(StoppedError):
        made.start("up")
    assert {process.pid for process in descendants()} <= before


RUN_AND_HANG = """
import sys, time
from pathlib import Path
from services.local.ports import FREE_PORTS
from services.local.settings import CHECKOUT
from services.local.supervisor import run_deployment
with run_deployment("up", Path(sys.argv[1]), ports=FREE_PORTS, is_stopping=lambda: False, package=sys.argv[2]):
    print("up", flush=True)
    time.sleep(600)
"""


def test_killed_supervisor_takes_all_along_and_the_next_starts(home: Path) -> None:
    before = {process.pid for process in descendants()}
    command = [sys.executable, "-c", RUN_AND_HANG, str(home), PACKAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as supervisor:
        assert supervisor.stdout is not None
        while supervisor.stdout.readline() != "up\n":
            assert supervisor.poll() is None
        family = [process for process in descendants() if process.pid not in before]
        supervisor.kill()
    tend_until(None, lambda: not any(is_alive(process) for process in family))
    with deployment(home) as made:
        assert find_running(home) is None
        assert made.start("up") == find_running(home)


def test_home_has_one_owner(tmp_path: Path) -> None:
    with hold_home(tmp_path), pytest.raises(HomeTakenError, match=f"process {os.getpid()} "), hold_home(tmp_path):
        pass
    with hold_home(tmp_path):
        pass


def test_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"{port} \(data's metrics\)"):
            check_ports({"data": Ports(0, port)})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"targets": {}}'])
def test_unreadable_publication_means_not_running(tmp_path: Path, content: str) -> None:
    (tmp_path / "running.json").write_text(content)
    assert find_running(tmp_path) is None
