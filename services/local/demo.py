"""The demo: from the shipped sample to a finished backtest and its report, through the klinecast command."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from services.local.ports import FREE_PORTS
from services.local.postgres_binaries import make_directory
from services.local.process import with_variables
from services.local.running import HomeTakenError, Running, age_text, find_running
from services.local.sample import SAMPLE
from services.local.supervisor import Deployment, DeploymentError, StoppedError, run_deployment

_SERIES = ("--symbol", "SYNTHETIC", "--interval", "1h")
_RANGE = ("--start", "2025-01-01", "--end", "2026-01-01")
_STRATEGY = ("-p", "fast=10", "-p", "slow=30", "--taker-fee-bps", "10")
COMMAND = (sys.executable, "-m", "klinecast.cli")
_POLL_SECONDS = 0.1
_PATIENCE = ((2.0, signal.SIGINT), (5.0, signal.SIGKILL))
_WAIT_SECONDS = 300.0
"""How long another process of this checkout may take to come up or to finish."""


def run_demo(home: Path, *, is_stopping: Callable[[], bool], embedded_database: bool) -> int:
    """Run the demo and return the exit code of the first command that failed, 0 when the backtest finished."""
    report = home / "reports" / "demo.html"
    make_directory(report.parent)
    with _find_or_start(home, is_stopping, embedded_database) as (deployment, running):
        for arguments in _commands(report):
            code = _run_command(arguments, running, deployment, is_stopping)
            if code != 0:
                return code
    print(f"\nThe report is {report}")
    return 0


def _commands(report: Path) -> list[list[str]]:
    return [
        ["import", str(SAMPLE), *_SERIES],
        ["backtest", "run", "dual_ma", *_SERIES, *_RANGE, *_STRATEGY, "--report", str(report)],
    ]


@contextlib.contextmanager
def _find_or_start(
    home: Path, is_stopping: Callable[[], bool], embedded_database: bool
) -> Iterator[tuple[Deployment | None, Running]]:
    """Yield the running `up` of this checkout, or a deployment of our own on free ports.

    Another demo's deployment ends with that demo, so we wait for its end; so do we for an `up` that is still starting.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            running = find_running(home)
            if running is not None and running.kind == "up":
                print(f"using the deployment that runs since {age_text(running)} (process {running.pid})", flush=True)
                yield None, running
                return
            own = run_deployment(
                "demo", home, ports=FREE_PORTS, is_stopping=is_stopping, embedded_database=embedded_database
            )
            try:
                started = stack.enter_context(own)
            except HomeTakenError:
                _wait_for_other(home, is_stopping, deadline)
                continue
            yield started
            return


def _wait_for_other(home: Path, is_stopping: Callable[[], bool], deadline: float) -> None:
    if is_stopping():
        raise StoppedError
    if time.monotonic() > deadline:
        raise DeploymentError(f"another process holds {home} and its services do not answer")
    time.sleep(_POLL_SECONDS)


def _run_command(
    arguments: list[str], running: Running, deployment: Deployment | None, is_stopping: Callable[[], bool]
) -> int:
    """Run the klinecast command on our terminal, keeping our own deployment alive meanwhile; return its exit code."""
    print(f"\n$ klinecast {' '.join(arguments)}", flush=True)
    command = with_variables(running.client_environment(), [*COMMAND, *arguments])
    with subprocess.Popen(command) as process:
        while process.poll() is None and not is_stopping():
            if deployment is not None:
                deployment.tend()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
        _end(process)
    return 130 if is_stopping() else process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """See an interrupted command off. Ctrl-C in a terminal reached it too; of a signal to us alone it hears here."""
    for patience, number in _PATIENCE:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        if process.poll() is not None:
            return
        process.send_signal(number)
