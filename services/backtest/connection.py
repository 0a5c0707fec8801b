"""One synchronous connection to Postgres that heals itself; for processes and threads that have no event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from services.runtime.database import cut_socket, libpq_url

_ANSWER_S = 1.0
"""What an answer may take beyond the time its statement may run."""
_IDLE_CHECK_S = 0.5
"""A connection that was idle longer is proven alive before it is used."""
_OPTIONS = "-c timezone=UTC -c statement_timeout={statement_timeout_ms}"


class HealingConnection:
    """Runs single statements, each its own transaction; one that failed closes the connection, the next opens it."""

    def __init__(self, url: str, application_name: str, *, timeout_s: float, listen: str | None = None) -> None:
        """Describe it: timeout_s bounds a statement and what the network may swallow; listen is a NOTIFY channel."""
        self._bound_s = timeout_s + _ANSWER_S
        self._used_at = 0.0
        self._url = libpq_url(url)
        self._arguments: dict[str, Any] = {
            "application_name": application_name,
            "connect_timeout": 2,
            "options": _OPTIONS.format(statement_timeout_ms=round(timeout_s * 1000)),
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 2,
            "tcp_user_timeout": round(timeout_s * 1000),
        }
        self._listen = listen
        self._connection: psycopg.Connection[DictRow] | None = None

    def run(self, statement: str, parameters: Mapping[str, object]) -> Sequence[DictRow]:
        """Return the rows of a statement; OperationalError when the database is away, and it may have run then."""
        self._prove_alive()
        connection = self.open()
        try:
            with _cut_after(connection, self._bound_s):
                cursor = connection.execute(statement, parameters, prepare=True)
            self._used_at = time.monotonic()
            return cursor.fetchall() if cursor.description else ()
        except psycopg.OperationalError:
            connection.close()
            raise
        except psycopg.errors.ReadOnlySqlTransaction as error:  # a standby: the next connection may reach the primary
            connection.close()
            raise psycopg.OperationalError(str(error)) from error

    def open(self) -> psycopg.Connection[DictRow]:
        """Return the connection, made anew where the last one broke."""
        if self._connection is None or self._connection.closed:
            connection: psycopg.Connection[DictRow] = psycopg.connect(
                self._url, autocommit=True, row_factory=dict_row, **self._arguments
            )
            if self._listen is not None:
                with _cut_after(connection, self._bound_s):
                    connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(self._listen)))
            self._connection, self._used_at = connection, time.monotonic()
        return self._connection

    def take_notifications(self) -> Sequence[str]:
        """Return the payloads that have arrived, without waiting."""
        connection = self.open()
        try:
            connection.pgconn.consume_input()
        except psycopg.OperationalError:
            connection.close()
            raise
        payloads = []
        while notify := connection.pgconn.notifies():
            payloads.append(notify.extra.decode())
        return payloads

    def _prove_alive(self) -> None:
        """Close an idle connection that does not answer at once, so that the statement gets a new one."""
        connection = self._connection
        if connection is None or connection.closed or time.monotonic() - self._used_at < _IDLE_CHECK_S:
            return
        try:
            with _cut_after(connection, _ANSWER_S):
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            connection.close()

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()


@contextmanager
def _cut_after(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Cut a connection that goes silent: neither the server's time-out nor TCP's tells of one behind a proxy."""

    def cut() -> None:
        with suppress(OSError, psycopg.Error):
            cut_socket(connection.pgconn.socket)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
