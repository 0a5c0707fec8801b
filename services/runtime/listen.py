"""LISTEN on a connection of its own; wakes may repeat, none is lost: after each doubt the payload is None."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg import sql

from services.runtime.database import DriverConnection, cut_socket, libpq_url
from services.runtime.logs import get_logger

OnWake = Callable[[str | None], None]
POLL_S = 1.0
"""While nobody listens, subscribers are told to read again this often."""
HEARTBEAT_S = 1.0
HEARTBEAT_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 2.0
_LOG = get_logger(__name__)


class Listener:
    """Calls `on_wake` with each payload of a channel, and with None when everything is to be read again."""

    def __init__(self, url: str, channel: str, on_wake: OnWake) -> None:
        self._url = url
        self._channel = channel
        self._on_wake = on_wake
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled, through any outage."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._log_outage(error)
            finally:
                self.listening.clear()
            self._on_wake(None)
            await asyncio.sleep(POLL_S)

    def _log_outage(self, error: Exception) -> None:
        _LOG.warning("listener_away", channel=self._channel, error=type(error).__name__)

    async def _listen(self) -> None:
        connection = await self._connect()
        try:
            connection.add_notify_handler(lambda notify: self._on_wake(notify.payload))
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            self.listening.set()
            self._on_wake(None)  # what was written before LISTEN woke nobody
            await self._follow(connection)
        finally:
            await connection.close()

    async def _follow(self, connection: DriverConnection) -> None:
        # Not psycopg's notifies(): between its time-outs and the next statement it loses payloads (7 of 300 measured).
        next_beat = time.monotonic() + HEARTBEAT_S
        while True:
            await _wait_readable(connection.fileno(), max(0.0, next_beat - time.monotonic()))
            connection.pgconn.consume_input()
            while notify := connection.pgconn.notifies():
                self._on_wake(notify.extra.decode())
            if time.monotonic() >= next_beat:
                await _heartbeat(connection)
                next_beat = time.monotonic() + HEARTBEAT_S

    async def _connect(self) -> DriverConnection:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await psycopg.AsyncConnection.connect(
                libpq_url(self._url), autocommit=True, application_name=f"klinecast-listen-{self._channel}"
            )


async def _wait_readable(descriptor: int, timeout_s: float) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(timeout_s):
            await readable.wait()
    except TimeoutError:
        return
    finally:
        loop.remove_reader(descriptor)


async def _heartbeat(connection: DriverConnection) -> None:
    def give_up() -> None:
        with suppress(OSError, psycopg.Error):
            cut_socket(connection.pgconn.socket)

    timer = asyncio.get_running_loop().call_later(HEARTBEAT_TIMEOUT_S, give_up)
    try:
        await connection.execute("SELECT 1")
    finally:
        timer.cancel()
