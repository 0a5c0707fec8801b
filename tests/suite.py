"""The three services as processes on a test's database: real sockets, real workers, to be killed at will."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from klinecast.client import Client
from services.local.ports import Ports
from services.local.process import ServiceProcess, with_variables
from services.local.settings import CHECKOUT

ORDER = ("data", "results", "backtest")
_START_S = 150.0
"""The first start in a fresh clone compiles the kernels."""


class WorkerProcess:
    """A process that takes backtests from a broker, with workers of its own."""

    def __init__(self, home: Path, environment: dict[str, str], pipe_fd: int) -> None:
        self._log_file = home / "logs" / f"worker-{uuid.uuid4().hex[:8]}.log"
        variables = environment | {
            "KLINECAST_SUPERVISOR_PIPE_FD": str(pipe_fd),
            "KLINECAST_METRICS_LISTEN": "127.0.0.1:0",
        }
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                with_variables(variables, [sys.executable, "-m", "services.backtest.worker"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=CHECKOUT,
                pass_fds=(pipe_fd,),
                start_new_session=True,
            )

    @property
    def process(self) -> psutil.Process:
        """The process; its children are the workers."""
        return psutil.Process(self._process.pid)

    @property
    def exit_code(self) -> int | None:
        """How it ended, None while it runs."""
        return self._process.poll()

    def log(self) -> str:
        """Return what it logged."""
        return self._log_file.read_text()

    def kill(self) -> None:
        """Kill it, and only it, with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Suite:
    """A deployment whose parts a test can stop, kill and start again; ports stay the same."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        self._environment = environment
        self._pipe = os.pipe()
        self.workers: list[WorkerProcess] = []
        self._home = home
        self._services = {name: ServiceProcess(name, home, ports=Ports(0, 0), package="services") for name in ORDER}

    def start(self, *names: str) -> None:
        """Start services (all by default) and wait until they serve."""
        wanted = names or ORDER
        for group in ([name for name in wanted if name != "backtest"], [name for name in wanted if name == "backtest"]):
            if group == ["backtest"]:
                targets = {f"KLINECAST_{other.upper()}_TARGET": self.target(other) for other in ORDER[:2]}
                self._environment = targets | self._environment
            for name in group:
                self._services[name].start(dict(self._environment), pipe_fd=self._pipe[0])
            for name in group:
                self.wait_until_serving(name)

    def add_worker(self) -> WorkerProcess:
        """Start another process that takes backtests from the broker."""
        self.workers.append(WorkerProcess(self._home, dict(self._environment), self._pipe[0]))
        return self.workers[-1]

    def wait_until_serving(self, name: str) -> None:
        """Wait until a service says SERVING."""
        service, deadline = self._services[name], time.monotonic() + _START_S
        while not service.check_serving():
            assert service.exit_code is None, service.log_file.read_text()[-3000:]
            assert time.monotonic() < deadline, service.log_file.read_text()[-3000:]
            time.sleep(0.02)

    @property
    def database_url(self) -> str:
        """The database of all services."""
        return self._environment["KLINECAST_DATABASE__URL"]

    def target(self, name: str) -> str:
        """Return host:port of a service."""
        return self._services[name].target

    def probed(self, name: str) -> str:
        """Return host:port where a service answers health checks."""
        return self._services[name].probed

    def metrics(self, name: str) -> str:
        """Return host:port of the Prometheus page of a service."""
        return self._services[name].metrics

    def process(self, name: str) -> psutil.Process:
        """Return the process of a service."""
        return psutil.Process(self._services[name].pid)

    def kill(self, name: str) -> None:
        """Kill the process of a service, and only it, with SIGKILL."""
        self.process(name).send_signal(signal.SIGKILL)
        self.wait_for_end(name)

    def wait_for_end(self, name: str) -> int:
        """Wait until the process of a service has ended; return its exit code."""
        deadline = time.monotonic() + _START_S
        while (code := self._services[name].exit_code) is None:
            assert time.monotonic() < deadline, f"{name} does not end"
            time.sleep(0.01)
        return code

    def log(self, name: str) -> str:
        """Return what a service logged since its last start."""
        return self._services[name].log_file.read_text()

    def client(self, **options: object) -> Client:
        """Return a client of this deployment."""
        return Client(
            data=self.target("data"), backtest=self.target("backtest"), results=self.target("results"), **options
        )

    def stop(self) -> None:
        """Stop everything."""
        for worker in self.workers:
            worker.stop()
        for name in reversed(ORDER):
            was_running, code = self._services[name].exit_code is None, self._services[name].stop()
            assert code == 0 or not was_running, f"{name} ended with {code}: {self.log(name)[-3000:]}"
        for end in self._pipe:
            with contextlib.suppress(OSError):
                os.close(end)


@contextlib.contextmanager
def run_suite(home: Path, database_url: str, **settings: str) -> Iterator[Suite]:
    """Yield a started deployment; settings are environment names without their prefix."""
    environment = {f"KLINECAST_{name}": value for name, value in settings.items()}
    suite = Suite(home, {"KLINECAST_DATABASE__URL": database_url, "KLINECAST_WORKERS": "2"} | environment)
    try:
        suite.start()
        if settings.get("EXECUTOR") == "celery":
            suite.add_worker()
        yield suite
    finally:
        suite.stop()
