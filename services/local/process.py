"""One service as a child process: its environment, its log, its ports, its end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.local.ports import HOST, Ports
from services.local.running import is_serving
from services.local.settings import CHECKOUT

RESTART_SECONDS = 5.0
"""A process that dies is started again, but not sooner than this after its last start."""
_STOP_SECONDS = 20.0
"""Longer than a service's own drain time."""


class ServiceProcess:
    """A service that can be started again on the ports it got the first time."""

    def __init__(self, name: str, home: Path, *, ports: Ports, package: str) -> None:
        """Describe `python -m <package>.<name>` with its state below home."""
        self.name = name
        self.log_file = home / "logs" / f"{name}.log"
        self._module = f"{package}.{name}"
        self._port_file = home / f"{name}.ports.json"
        self._ports = ports
        self.probed = ""
        """host:port that answers health checks, once it is bound."""
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @property
    def target(self) -> str:
        """host:port of the gRPC server, once it is bound."""
        return f"{HOST}:{self._ports.grpc}"

    @property
    def metrics(self) -> str:
        """host:port of the Prometheus page, once it is bound."""
        return f"{HOST}:{self._ports.metrics}"

    @property
    def pid(self) -> int:
        """The process id; only after start()."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended, None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self, environment: dict[str, str], *, pipe_fd: int) -> None:
        """Start it with an empty log; environment comes on top of ours, pipe_fd ends when we do."""
        self._environment = environment
        self.log_file.write_bytes(b"")
        self._spawn(pipe_fd)

    def restart_if_due(self, *, pipe_fd: int) -> bool:
        """Start a dead process again unless its last start was a moment ago; return whether that was done."""
        if self.exit_code is None or time.monotonic() - self._started_at < RESTART_SECONDS:
            return False
        self._kill_group()
        self._spawn(pipe_fd)
        return True

    def check_serving(self) -> bool:
        """Return whether it has bound its ports and says SERVING."""
        return self._learn_ports() and is_serving(self.probed)

    def stop(self) -> int:
        """Ask it to end, insist after its drain time, take along whatever it left; return its exit code.

        Harmless when it does not run.
        """
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._kill_group()
        code = self._process.wait()
        self._process = None
        self._port_file.unlink(missing_ok=True)
        return code

    def _spawn(self, pipe_fd: int) -> None:
        """Run it in a session of its own, so that Ctrl-C reaches only us and we decide the order of stopping."""
        self._port_file.unlink(missing_ok=True)
        variables = self._environment | {
            "KLINECAST_LISTEN": self.target,
            "KLINECAST_METRICS_LISTEN": self.metrics,
            "KLINECAST_PORT_FILE": str(self._port_file),
            "KLINECAST_SUPERVISOR_PIPE_FD": str(pipe_fd),
        }
        command = with_variables(variables, [sys.executable, "-m", self._module])
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=CHECKOUT,
                pass_fds=(pipe_fd,),
                start_new_session=True,
            )
        self._started_at = time.monotonic()

    def _learn_ports(self) -> bool:
        try:
            bound = json.loads(self._port_file.read_text())
        except FileNotFoundError:
            return False
        self._ports = Ports(grpc=bound["port"], metrics=bound["metrics_port"])
        self.probed = f"{HOST}:{bound.get('health_port', self._ports.grpc)}"
        return True

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def with_variables(variables: dict[str, str], command: list[str]) -> list[str]:
    """Return a command with more variables than our environment has, without this module reading the environment."""
    return ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *command]
