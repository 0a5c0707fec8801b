"""Keeps the embedded Postgres and the three services running together. The only place that knows the order."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from services.local.ports import Ports, check_ports
from services.local.postgres import PostgresServer
from services.local.postgres_binaries import PostgresError, make_directory
from services.local.process import RESTART_SECONDS, ServiceProcess
from services.local.running import Kind, Running, hold_home, remove_running, write_running

DATABASE = "klinecast"
_START_SECONDS = 300.0
"""The first start compiles the kernels: a quarter of a minute, minutes on a machine that is busy."""
_POLL_SECONDS = 0.05


class DeploymentError(Exception):
    """The deployment did not come up; the text says which part and shows the end of its log."""


class StoppedError(Exception):
    """The user asked to stop while the deployment was starting."""


@contextlib.contextmanager
def run_deployment(
    kind: Kind,
    home: Path,
    *,
    ports: dict[str, Ports],
    is_stopping: Callable[[], bool],
    embedded_database: bool = True,
    package: str = "services",
) -> Iterator[tuple["Deployment", Running]]:
    """Yield a started deployment of which this process is the only owner; all of it is stopped at the end."""
    make_directory(home)
    with hold_home(home):
        deployment = Deployment(
            home, ports=ports, is_stopping=is_stopping, embedded_database=embedded_database, package=package
        )
        try:
            yield deployment, deployment.start(kind)
        finally:
            deployment.stop()


class Deployment:
    """Everything `make up` runs. Use from the main thread: Postgres stops when the thread that started it ends."""

    def __init__(
        self,
        home: Path,
        *,
        ports: dict[str, Ports],
        is_stopping: Callable[[], bool],
        embedded_database: bool = True,
        package: str = "services",
    ) -> None:
        """Describe it; is_stopping ends a start in progress, the services are the modules of package named in ports.

        Without the embedded database the services find theirs in the environment they inherit from us.
        """
        self._home = home
        self._ports = ports
        self._is_stopping = is_stopping
        self._postgres = PostgresServer(home) if embedded_database else None
        self._postgres_started_at = 0.0
        self._services = {name: ServiceProcess(name, home, ports=pair, package=package) for name, pair in ports.items()}
        self._pipe: tuple[int, int] | None = None

    def start(self, kind: Kind) -> Running:
        """Start all parts in order and publish where they answer.

        Raises PortTakenError, PostgresError, DeploymentError or StoppedError; stop() then ends what was started.
        """
        check_ports(self._ports)
        _say("starting the database and the services ...")
        make_directory(self._home / "logs")
        self._pipe = os.pipe()
        environment = self._start_database()
        for group in (("data", "results"), ("backtest",)):
            for name in group:
                self._services[name].start(environment, pipe_fd=self._pipe[0])
            for name in group:
                self._wait_until_serving(self._services[name])
                environment |= {f"KLINECAST_{name.upper()}_TARGET": self._services[name].target}
        running = self._describe(kind)
        write_running(self._home, running)
        return running

    def tend(self) -> None:
        """Start again what has died. To be called a few times a second."""
        if self._postgres is not None and not self._postgres.is_running():
            self._restart_postgres(self._postgres)
        for service in self._services.values():
            code = service.exit_code
            if self._pipe is not None and service.restart_if_due(pipe_fd=self._pipe[0]):
                _say(f"{service.name} ended with code {code} and was started again; its log is {service.log_file}")

    def stop(self) -> None:
        """Stop all parts, the ones that use others first. Harmless at any time, also halfway through start()."""
        remove_running(self._home)
        for service in reversed(self._services.values()):
            service.stop()
        if self._postgres is not None:
            self._postgres.stop()
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def _start_database(self) -> dict[str, str]:
        if self._postgres is None:
            return {}
        self._postgres_started_at = time.monotonic()
        self._postgres.start()
        return {"KLINECAST_DATABASE__URL": self._postgres.ensure_database(DATABASE)}

    def _restart_postgres(self, postgres: PostgresServer) -> None:
        if time.monotonic() - self._postgres_started_at < RESTART_SECONDS:
            return
        self._postgres_started_at = time.monotonic()
        try:
            postgres.start()
            _say("Postgres had ended and was started again")
        except PostgresError as error:
            _say(str(error))

    def _wait_until_serving(self, service: ServiceProcess) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not service.check_serving():
            if self._is_stopping():
                raise StoppedError
            if service.exit_code is not None or time.monotonic() > deadline:
                end = "\n".join(service.log_file.read_text(errors="replace").splitlines()[-15:])
                raise DeploymentError(f"the {service.name} service did not start; {service.log_file} ends:\n{end}")
            time.sleep(_POLL_SECONDS)

    def _describe(self, kind: Kind) -> Running:
        return Running(
            kind=kind,
            pid=os.getpid(),
            start_time=time.time(),
            targets={name: service.target for name, service in self._services.items()},
            metrics={name: service.metrics for name, service in self._services.items()},
        )


def _say(text: str) -> None:
    print(text, flush=True)
