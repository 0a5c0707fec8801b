"""Alembic without a command line: one schema, one version table and one lock per service. Knows no service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from services.runtime.database import sqlalchemy_url
from services.runtime.logs import get_logger

CONNECT_TIMEOUT_S = 2
LOCK_TIMEOUT_MS = 120_000
"""How long one instance waits for another's migration."""
TABLE_LOCK_TIMEOUT_MS = 3_000
"""How long a migration waits for a table, and calls of the version that serves behind it; then it is tried again."""
_IN_PROCESS = threading.Lock()
"""Alembic's `context` and `op` are module globals: one migration at a time per process."""
_LOG = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Migrations:
    """Where a service's tables come from."""

    schema: str
    script_location: Path
    """The folder that holds env.py and versions/."""


def migrate(url: str, schema: str, script_location: Path) -> None:
    """Bring the schema to the newest revision; any number of instances may call it at once. Blocks: use a thread.

    A schema that a later release brought further stays as it is: the release before runs on it, and can come back.
    """
    with _IN_PROCESS, _connection(url) as connection, _schema_lock(connection, schema):
        connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        connection.execute(sa.text(f"SET lock_timeout = {TABLE_LOCK_TIMEOUT_MS}"))
        connection.commit()
        config = config_of(connection, schema, script_location)
        if not _is_ahead(connection, schema, config):
            command.upgrade(config, "head")


def config_of(connection: sa.Connection, schema: str, script_location: Path) -> Config:
    """Return what Alembic's commands take to work on one schema over a connection."""
    config = Config(attributes={"schema": schema, "connection": connection})
    config.set_main_option("script_location", str(script_location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def run_env() -> None:
    """Run the migrations on the connection that `migrate` opened; the whole of a service's migrations/env.py."""
    attributes = context.config.attributes
    schema = cast("str", attributes["schema"])
    context.configure(
        connection=cast("sa.Connection", attributes["connection"]),
        version_table_schema=schema,
        include_schemas=True,
        transaction_per_migration=True,  # an index made CONCURRENTLY ends the transaction of its own migration only
    )
    with context.begin_transaction():
        context.run_migrations()


def _is_ahead(connection: sa.Connection, schema: str, config: Config) -> bool:
    """Tell whether a later release was here. Revisions are numbers of four digits; another unknown one is a fault."""
    stored = MigrationContext.configure(connection, opts={"version_table_schema": schema}).get_current_revision()
    connection.commit()
    newest = ScriptDirectory.from_config(config).get_current_head()
    if stored is None or newest is None or stored <= newest:
        return False
    _LOG.warning("schema_is_ahead", schema=schema, revision=stored, newest_known=newest)
    return True


@contextmanager
def _connection(url: str) -> Iterator[sa.Connection]:
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "klinecast-migrate",
        "options": f"-c lock_timeout={LOCK_TIMEOUT_MS} -c timezone=UTC",
        "tcp_user_timeout": 10_000,
    }
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool, connect_args=arguments)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _schema_lock(connection: sa.Connection, schema: str) -> Iterator[None]:
    # The lock belongs to the session, so the server frees it when this process dies.
    key = sa.func.hashtextextended(f"klinecast-migrations-{schema}", 0)
    connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))
        connection.commit()
