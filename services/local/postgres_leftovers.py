"""What a killed run leaves of its Postgres: processes still at work in the data directory, and a lock file."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from services.local.postgres_binaries import PostgresError

_POLL_SECONDS = 0.02


def stop_leftovers(data_directory: Path) -> None:
    """Stop every Postgres process that works in data_directory and drop the lock file a killed one left behind.

    The lock file alone is not believed: its process id may by now be someone else's. Postgres's processes have the data
    directory as their working directory, which no one else has.
    """
    leftovers = list(_find_leftovers(data_directory))
    for sent, patience in ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if not leftovers:
            break
        for process in leftovers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sent)
        leftovers = _wait_for_end(leftovers, patience)
    if leftovers:
        raise PostgresError(
            f"a Postgres of a killed run does not stop: processes {[process.pid for process in leftovers]}"
        )
    (data_directory / "postmaster.pid").unlink(missing_ok=True)


def _find_leftovers(data_directory: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["name", "cwd"]):
        if process.info["name"] == "postgres" and process.info["cwd"] == str(data_directory):
            yield process


def _wait_for_end(processes: list[psutil.Process], patience: float) -> list[psutil.Process]:
    """Return those still running after patience. A zombie has ended: in a container nobody may ever collect it."""
    deadline = time.monotonic() + patience
    while processes and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        processes = [process for process in processes if _is_alive(process)]
    return processes


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
