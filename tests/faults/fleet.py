"""Two replicas of each service behind a balancer each, two worker processes behind a broker: as on Kubernetes."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from klinecast.client import Client
from services.local.ports import Ports
from services.local.process import ServiceProcess
from tests.broker import run_broker
from tests.faults.balancer import Balancer, balance
from tests.suite import ORDER, WorkerProcess

REPLICAS = 2
MEMBERS = (*ORDER, "worker")
SETTINGS = {
    "WORKERS": "1",
    "EXECUTOR": "celery",
    "SHUTDOWN__PRESTOP_SECONDS": "1.5",
    "SHUTDOWN__DRAIN_SECONDS": "5",
    "LIMITS__CONNECTION_AGE_S": "1",
}
_WAIT_S = 60.0


class Fleet:
    """A deployment whose replicas are restarted as Kubernetes does it."""

    def __init__(self, home: Path, url: str, broker_url: str) -> None:
        self.url = url
        settings = SETTINGS | {"DATABASE__URL": url, "BROKER_URL": broker_url}
        self._environment = {f"KLINECAST_{name}": value for name, value in settings.items()}
        self._pipe = os.pipe()
        self._home = home
        (home / "logs").mkdir(parents=True)
        self._services = {name: [self._new(name, index) for index in range(REPLICAS)] for name in ORDER}
        self._workers: list[WorkerProcess] = []
        self._balancers: dict[str, Balancer] = {}

    def start(self, stack: ExitStack) -> None:
        """Start everything; the balancers close with the stack."""
        self._balancers = {name: stack.enter_context(balance()) for name in ORDER}
        self._environment |= {f"KLINECAST_{name.upper()}_TARGET": self.target(name) for name in ("data", "results")}
        for replica in itertools.chain.from_iterable(self._services.values()):
            replica.start(self._environment, pipe_fd=self._pipe[0])
        self._workers = [self._new_worker() for _ in range(REPLICAS)]
        for name, replicas in self._services.items():
            for replica in replicas:
                _wait_for(replica.check_serving)
            self._balancers[name].replicas = [replica.target for replica in replicas]
            _wait_for(lambda name=name: len(self._balancers[name].serving) == REPLICAS)  # type: ignore[misc]

    def target(self, name: str) -> str:
        """Return host:port of the balancer of a service."""
        return self._balancers[name].address

    def client(self) -> Client:
        """Return a client that knows the balancers only."""
        return Client(**{name: self.target(name) for name in ORDER})

    def restart(self, names: Sequence[str], index: int) -> dict[str, tuple[float, float]]:
        """Restart one replica of some members; return the seconds that each took to stop and to serve again.

        The next may only follow when the balancer knows the new one, as a Deployment waits for readiness.
        """
        begun = time.monotonic()
        for name in names:
            self._process(name, index).send_signal(signal.SIGTERM)
        stopped: dict[str, float] = {}
        _wait_for(lambda: _note_done(names, lambda name: self._has_stopped(name, index), stopped, begun))
        begun = time.monotonic()
        for name in names:
            if name == "worker":
                self._workers[index] = self._new_worker()
            else:
                self._services[name][index].start(self._environment, pipe_fd=self._pipe[0])
        served: dict[str, float] = {}
        _wait_for(lambda: _note_done(names, lambda name: self._serves(name, index), served, begun))
        return {name: (stopped[name], served[name]) for name in names}

    def stop(self) -> None:
        """Stop everything at once."""
        for name, index in itertools.product(ORDER, range(REPLICAS)):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process(name, index).send_signal(signal.SIGTERM)
        codes = [worker.stop() for worker in self._workers]
        codes += [replica.stop() for name in reversed(ORDER) for replica in self._services[name]]
        for end in self._pipe:
            with contextlib.suppress(OSError):
                os.close(end)
        assert set(codes) <= {0}, codes

    def _process(self, name: str, index: int) -> psutil.Process:
        return self._workers[index].process if name == "worker" else psutil.Process(self._services[name][index].pid)

    def _has_stopped(self, name: str, index: int) -> bool:
        code = self._workers[index].exit_code if name == "worker" else self._services[name][index].exit_code
        assert code in (None, 0), f"{name} ended with {code}"
        return code == 0

    def _serves(self, name: str, index: int) -> bool:
        if name == "worker":
            return bool(self._workers[index].process.children())
        replica = self._services[name][index]
        return replica.check_serving() and replica.target in self._balancers[name].serving

    def _new(self, name: str, index: int) -> ServiceProcess:
        home = self._home / str(index)
        (home / "logs").mkdir(parents=True, exist_ok=True)
        return ServiceProcess(name, home, ports=Ports(0, 0), package="services")

    def _new_worker(self) -> WorkerProcess:
        return WorkerProcess(self._home, self._environment, self._pipe[0])


@contextlib.contextmanager
def run_fleet(home: Path, url: str) -> Iterator[Fleet]:
    """Yield a started fleet on a database, with a broker of its own; nothing of it is left at the end."""
    with ExitStack() as stack:
        broker = stack.enter_context(run_broker(home / "broker"))
        fleet = Fleet(home, url, broker.url)
        stack.callback(fleet.stop)
        fleet.start(stack)
        yield fleet


def _note_done(names: Sequence[str], is_done: Callable[[str], bool], seconds: dict[str, float], begun: float) -> bool:
    """Write down how long those took that are done; tell whether all are."""
    for name in names:
        if name not in seconds and is_done(name):
            seconds[name] = time.monotonic() - begun
    return len(seconds) == len(names)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
