"""Birth and end of a process: addresses, the port file, stop signals and the supervisor's pipe. Knows no service."""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import json
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
Result = TypeVar("Result")


def split_address(address: str) -> tuple[str, int]:
    """Split host:port, [v6]:port or :port; raise ValueError when the port is no number."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def write_port_file(path: str, ports: dict[str, int]) -> None:
    """Replace the file by a JSON object in one step, so that a reader sees all of it or nothing."""
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    with os.fdopen(descriptor, "w") as file:
        json.dump(ports, file)
    os.replace(temporary, target)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGTERM or SIGINT; further ones change nothing."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def stop_with_supervisor(pipe_fd: int) -> threading.Thread:
    """Send this process SIGTERM when the other end of the inherited pipe closes: no orphan outlives its parent."""
    os.set_inheritable(pipe_fd, False)
    thread = threading.Thread(target=_wait_for_end, args=(pipe_fd,), name="supervisor-pipe", daemon=True)
    thread.start()
    return thread


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask Linux to signal this process when the thread that spawned it ends; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def give_up_privileges() -> None:
    """Let no program that this process starts gain what it has not, and no crash write its secrets to a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


async def in_daemon_thread(function: Callable[[], Result]) -> Result:
    """Run a blocking function in a thread that a stopping process does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(action: Callable[..., None], value: object) -> None:
        if not future.done():
            action(value)

    def work() -> None:
        try:
            action, value = future.set_result, function()
        except Exception as error:
            action, value = future.set_exception, error  # type: ignore[assignment]
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(settle, action, value)

    threading.Thread(target=work, name="blocking", daemon=True).start()
    return await future


def _wait_for_end(pipe_fd: int) -> None:
    while os.read(pipe_fd, 64):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
