"""One synchronous connection to Postgres that heals itself; for processes and threads that have no event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from services.runtime.database import libpq_url

_OPTIONS = "-c timezone=UTC -c statement_timeout={statement_timeout_ms}"


class HealingConnection:
    """Runs single statements, each its own transaction; one that failed closes the connection, the next opens it."""

    def __init__(self, url: str, application_name: str, *, timeout_s: float, listen: str | None = None) -> None:
        """Describe it: timeout_s bounds a statement and what the network may swallow; listen is a NOTIFY channel."""
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
        connection = self.open()
        try:
            cursor = connection.execute(statement, parameters, prepare=True)
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
                connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(self._listen)))
            self._connection = connection
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

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()
