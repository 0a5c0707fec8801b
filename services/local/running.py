"""Who runs the deployment of a home, and where it answers: a lock and a file others read."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Kind = Literal["up", "demo"]
_CHECK_SECONDS = 1.0


class HomeTakenError(Exception):
    """Another process runs the deployment of this home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A deployment that is up."""

    kind: Kind
    """What started it; one started by a demo goes away with that demo."""
    pid: int
    start_time: float
    """Seconds since the epoch."""
    targets: dict[str, str]
    """Service name -> host:port of its gRPC server."""
    metrics: dict[str, str]
    """Service name -> host:port of its Prometheus page."""

    def client_environment(self) -> dict[str, str]:
        """Return the variables by which the klinecast command and the services find each other."""
        return {f"KLINECAST_{name.upper()}_TARGET": target for name, target in self.targets.items()}


@contextlib.contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Be the only process that runs this home's deployment; the kernel lets go of the lock whatever way we end.

    Raises HomeTakenError at once when another process holds it.
    """
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise HomeTakenError(f"process {lock.read().strip()} runs the deployment in {home} already") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def write_running(home: Path, running: Running) -> None:
    """Publish where the deployment answers, in one step."""
    scratch = home / "running.json.new"
    scratch.write_text(json.dumps(asdict(running), indent=2) + "\n")
    os.replace(scratch, home / "running.json")


def remove_running(home: Path) -> None:
    """Take the publication back."""
    (home / "running.json").unlink(missing_ok=True)


def find_running(home: Path) -> Running | None:
    """Return the deployment of this home if its file is there and all its services answer."""
    try:
        running = Running(**json.loads((home / "running.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return running if all(is_serving(target) for target in running.targets.values()) else None


def is_serving(target: str) -> bool:
    """Ask a gRPC server for its health; anything but SERVING within a second is False."""
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_CHECK_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def age_text(running: Running) -> str:
    """Return since when it runs, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(running.start_time))
