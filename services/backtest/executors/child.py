"""A worker process as its parent sees it: how it is started, noticed to have ended, and ended with all it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

_LAST_S = 1.0
"""What a process that has closed its end of the pipe may take to end by itself."""


class Child:
    """A process in a session of its own, so that what a strategy starts is in its group and ends with it."""

    def __init__(self, worker_id: str) -> None:
        """Start it; OSError where the machine has no room for it."""
        ours, theirs = socket.socketpair()
        command = ["--child-fd", str(theirs.fileno()), "--worker-id", worker_id]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "services.backtest.worker", *command],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        self.pipe = Connection(ours.detach())
        self._ended_fd = _open_pidfd(self._process.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def signs(self) -> Sequence[Connection | int]:
        """What becomes readable when it says something or has ended: the pipe stays open in what it started."""
        return [self.pipe] if self._ended_fd is None else [self.pipe, self._ended_fd]

    def has_ended(self) -> bool:
        """Tell whether its process has ended, whoever still holds its end of the pipe."""
        if self._ended_fd is not None:
            return bool(wait([self._ended_fd], 0))
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it and what it started; harmless when it has ended."""
        if self._process.returncode is None:  # else its number may be another's by now
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def bury(self) -> int:
        """Wait for its end, end what it left; return its exit code."""
        if self._ended_fd is not None:
            wait([self._ended_fd], _LAST_S)  # killed too soon it could not say how it ended
        self.kill()
        return self._process.wait()

    def close(self) -> None:
        """Give its descriptors back."""
        self.pipe.close()
        if self._ended_fd is not None:
            os.close(self._ended_fd)


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a process ends; None where there is no such thing."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, a sandbox, or no descriptor left
        return None
