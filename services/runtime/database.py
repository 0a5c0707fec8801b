"""The one pool of a process to its Postgres; every wait is bounded, whatever state the server or the network is in.

A call that outlives its bound has its socket shut down rather than its coroutine cancelled: psycopg would spend 10 s
trying to cancel the query of a dead server.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from services.runtime.config import DatabaseSettings
from services.runtime.errors import database_unavailable

DriverConnection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"
IDLE_CHECK_S = 1.0
"""A pooled connection that was idle longer is proven alive before it is used."""
PING_TIMEOUT_S = 1.5
IDLE_IN_TRANSACTION_S = 3.0
"""A process that is paused while it holds locks loses them after so long: nobody here waits inside a transaction."""
OUTAGE_S = 3.0
"""After so long without an answer to any ping, or since one went silent, what still waits is given up."""


@dataclass(slots=True, eq=False)
class _Scope:
    """One connection in use."""

    connection: DriverConnection
    started: float = field(default_factory=time.monotonic)

    def cut(self) -> None:
        """Shut the socket down: whoever waits on it gets an OperationalError at once."""
        with suppress(OSError, psycopg.Error):
            cut_socket(self.connection.pgconn.socket)


class Database:
    """Connections to one Postgres; tables are always named with their schema, search_path is never set."""

    def __init__(self, settings: DatabaseSettings, *, application_name: str) -> None:
        self._settings = settings
        self._application_name = application_name
        self._engine = create_async_engine(
            sqlalchemy_url(settings.url.get_secret_value()),
            pool_size=settings.pool_size,
            max_overflow=settings.max_overflow,
            pool_timeout=settings.pool_timeout_s,
            connect_args=_connect_args(settings, application_name),
        )
        self._scopes: set[_Scope] = set()
        self._pinger: DriverConnection | None = None
        self._ping_lock = asyncio.Lock()
        self._last_answer = time.monotonic()
        self._last_silence = -math.inf

    @property
    def url(self) -> str:
        """The URL as libpq takes it, for connections outside the pool; it holds the password."""
        return libpq_url(self._settings.url.get_secret_value())

    @property
    def connections(self) -> tuple[int, int, int]:
        """How many connections of the pool are in use, how many idle, and how many there may be."""
        pool = self._engine.pool
        limit = self._settings.pool_size + self._settings.max_overflow
        return pool.checkedout(), pool.checkedin(), limit  # type: ignore[attr-defined]  # QueuePool's

    @asynccontextmanager
    async def connect(self, *, timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Yield a connection whose work is rolled back unless it commits; bounded by `timeout_s` or the setting."""
        connection = await self._checkout()
        try:
            driver = await _driver_of(connection)
            with self._bounded(driver, timeout_s or self._settings.scope_timeout_s):
                yield connection
        finally:
            await _give_back(connection)

    @asynccontextmanager
    async def begin(self, *, timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that commits at the end of the block and rolls back on an exception."""
        async with self.connect(timeout_s=timeout_s) as connection:
            yield connection
            await connection.commit()

    @asynccontextmanager
    async def driver(self, *, timeout_s: float | None = None) -> AsyncIterator[DriverConnection]:
        """Yield psycopg's own connection in a transaction, for hot paths; otherwise as `begin`."""
        async with self.connect(timeout_s=timeout_s) as connection:
            driver = await _driver_of(connection)
            yield driver
            await driver.commit()

    @asynccontextmanager
    async def single(self, *, timeout_s: float | None = None) -> AsyncIterator[DriverConnection]:
        """Yield psycopg's own connection in autocommit: a lone statement costs one round trip instead of three."""
        async with self.connect(timeout_s=timeout_s) as connection:
            driver = await _driver_of(connection)
            await driver.set_autocommit(True)
            try:
                yield driver
            finally:
                if driver.pgconn.transaction_status == TransactionStatus.IDLE:
                    await driver.set_autocommit(False)
                else:  # cut or cancelled inside the statement: not for the pool any more
                    await driver.close()

    async def ping(self) -> bool:
        """Tell whether the server answers, in bounded time, on a connection that the pool's users cannot hold."""
        async with self._ping_lock:
            if answered := await self._answers():
                self._last_answer = time.monotonic()
            else:
                await self._drop_pinger()
            self._give_up_waiting()
            return answered

    async def close(self) -> None:
        """Close every connection; those in use are cut."""
        for scope in tuple(self._scopes):
            scope.cut()
        async with self._ping_lock:
            await self._drop_pinger()
        await self._engine.dispose()

    async def _answers(self) -> bool:
        if self._pinger is not None and self._pinger.closed:
            await self._drop_pinger()  # the server was restarted since; a new connection may do
        try:
            if self._pinger is None:
                self._pinger = await self._open_pinger()
            with _cut_after(self._pinger, PING_TIMEOUT_S) as cut:
                try:
                    await self._pinger.execute("SELECT 1")
                finally:
                    self._last_silence = time.monotonic() if cut.is_set() else self._last_silence
            return True
        except (psycopg.Error, OSError, TimeoutError):
            return False

    async def _open_pinger(self) -> DriverConnection:
        async with asyncio.timeout(self._settings.connect_timeout_s):
            return await psycopg.AsyncConnection.connect(
                self.url, autocommit=True, **_connect_args(self._settings, f"{self._application_name}-probe")
            )

    async def _drop_pinger(self) -> None:
        pinger, self._pinger = self._pinger, None
        if pinger is not None:
            await pinger.close()

    def _give_up_waiting(self) -> None:
        """Cut what has waited for long while the server is away, or after our own connection to it went silent.

        The others may have gone silent with it, and a new connection that answers says nothing of them.
        """
        now = time.monotonic()
        if now - self._last_answer < OUTAGE_S and now - self._last_silence > 2 * OUTAGE_S:
            return
        for scope in tuple(self._scopes):
            if now - scope.started >= OUTAGE_S:
                scope.cut()

    async def _checkout(self) -> AsyncConnection:
        connection = await self._open()
        if await self._is_alive(connection):
            return connection
        # SQLAlchemy has now thrown away every connection of the pool, so this one is new.
        return await self._open()

    async def _open(self) -> AsyncConnection:
        connection = self._engine.connect()
        try:
            async with asyncio.timeout(self._settings.pool_timeout_s + self._settings.connect_timeout_s):
                return await connection.start()
        except TimeoutError:
            raise database_unavailable() from None

    async def _is_alive(self, connection: AsyncConnection) -> bool:
        driver = await _driver_of(connection)
        info, now = connection.sync_connection, time.monotonic()
        if info is None or now - info.info.get("used_at", now) < IDLE_CHECK_S:
            return True
        watch = _cut_after(driver, PING_TIMEOUT_S)
        try:
            with watch as cut:
                await connection.exec_driver_sql("SELECT 1")
                await connection.rollback()
        except sa.exc.DBAPIError:
            await _give_back(connection)
            if cut.is_set():  # a server that is silent rather than gone: asking it again would only wait again
                raise database_unavailable() from None
            return False
        except BaseException:
            await _give_back(connection)
            raise
        return True

    @contextmanager
    def _bounded(self, driver: DriverConnection, timeout_s: float) -> Any:
        scope = _Scope(driver)
        self._scopes.add(scope)
        try:
            with _cut_after(driver, timeout_s):
                yield
        finally:
            self._scopes.discard(scope)


def sqlalchemy_url(url: str) -> sa.URL:
    """Return a postgres URL with the psycopg driver named, whichever way it was spelled."""
    return sa.make_url(libpq_url(url).replace("postgresql", "postgresql+psycopg", 1))


def libpq_url(url: str) -> str:
    """Return a postgres URL as libpq takes it, whichever way it was spelled."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("a database URL starts with postgresql://")
    return f"postgresql://{rest}"


def cut_socket(descriptor: int) -> None:
    """Shut a connection's socket down under whoever uses it; the descriptor itself stays theirs."""
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


@contextmanager
def _cut_after(driver: DriverConnection, seconds: float) -> Any:
    """Cut the connection when the block takes longer; yields an event that tells whether it did."""
    cut = asyncio.Event()
    scope = _Scope(driver)

    def give_up() -> None:
        cut.set()
        scope.cut()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        yield cut
    finally:
        timer.cancel()


async def _driver_of(connection: AsyncConnection) -> DriverConnection:
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if driver is None:
        raise database_unavailable()
    return driver  # type: ignore[no-any-return]


async def _give_back(connection: AsyncConnection) -> None:
    sync = connection.sync_connection
    if sync is not None and not connection.closed and not connection.invalidated:
        driver = await _driver_of(connection)
        if driver.closed:
            await connection.invalidate()
        else:
            sync.info["used_at"] = time.monotonic()
    await connection.close()


def _connect_args(settings: DatabaseSettings, application_name: str) -> dict[str, Any]:
    return {
        "application_name": application_name,
        "connect_timeout": max(1, round(settings.connect_timeout_s)),
        "options": f"-c statement_timeout={round(settings.statement_timeout_s * 1000)} "
        f"-c idle_in_transaction_session_timeout={round(IDLE_IN_TRANSACTION_S * 1000)} -c timezone=UTC",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": 10_000,
    }
