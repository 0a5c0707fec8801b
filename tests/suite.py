"""The three services as processes on a test's database: real sockets, real workers, to be killed at will."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from klinecast.client import Client
from services.local.ports import Ports
from services.local.process import ServiceProcess

ORDER = ("data", "results", "backtest")
_START_S = 60.0


class Suite:
    """A deployment whose parts a test can stop, kill and start again; ports stay the same."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        self._environment = environment
        self._pipe = os.pipe()
        self._services = {name: ServiceProcess(name, home, ports=Ports(0, 0), package="services") for name in ORDER}

    def start(self, *names: str) -> None:
        """Start services (all by default) and wait until they serve."""
        for name in names or ORDER:
            if name == "backtest":
                self._environment |= {f"KLINECAST_{other.upper()}_TARGET": self.target(other) for other in ORDER[:2]}
            self._services[name].start(dict(self._environment), pipe_fd=self._pipe[0])
            self.wait_until_serving(name)

    def wait_until_serving(self, name: str) -> None:
        """Wait until a service says SERVING."""
        service, deadline = self._services[name], time.monotonic() + _START_S
        while not service.check_serving():
            assert service.exit_code is None, service.log_file.read_text()[-3000:]
            assert time.monotonic() < deadline, service.log_file.read_text()[-3000:]
            time.sleep(0.02)

    def target(self, name: str) -> str:
        """Return host:port of a service."""
        return self._services[name].target

    def metrics(self, name: str) -> str:
        """Return host:port of the Prometheus page of a service."""
        return self._services[name].metrics

    def process(self, name: str) -> psutil.Process:
        """Return the process of a service."""
        return psutil.Process(self._services[name].pid)

    def kill(self, name: str) -> None:
        """Kill the process of a service, and only it, with SIGKILL."""
        self.process(name).send_signal(signal.SIGKILL)
        while self._services[name].exit_code is None:
            time.sleep(0.01)

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
        for name in reversed(ORDER):
            self._services[name].stop()
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
        yield suite
    finally:
        suite.stop()
