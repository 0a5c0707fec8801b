"""Databases for tests: one quick Postgres per session, a template with every service's tables, a copy per test."""

import contextlib
import importlib
import importlib.util
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from services.local.postgres import PostgresServer
from services.local.postgres_binaries import make_directory
from services.runtime.database import libpq_url

SERVICES = ("data", "backtest", "results")
"""Each has a schema of its own by the same name, and its migrations in services/<name>/migrations."""
HOME_PREFIX = "klinecast-test-"
ROOT_STATE = Path("/var/lib/klinecast")


@contextlib.contextmanager
def make_home() -> Iterator[Path]:
    """Yield a directory with a short path that the user who runs Postgres may enter; it is removed at the end."""
    base = ROOT_STATE if os.geteuid() == 0 else Path("/tmp")
    make_directory(base)
    _remove_abandoned(base)
    home = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-", dir=base))
    home.chmod(0o755)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def run_server(home: Path, *, name: str = "postgres") -> Iterator[PostgresServer]:
    """Yield a started server with fsync off (it survives kill(), not a power cut); it is stopped at the end."""
    server = PostgresServer(home, durable=False, name=name)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def build_template(server: PostgresServer, *, name: str = "klinecast_template") -> str:
    """Run the migrations of every service into a database to copy from and return its name.

    Copying needs the template without connections, which is why migrations run here and never through a pool.
    """
    url = server.ensure_database(name)
    for service in SERVICES:
        location = find_migrations(service)
        if location is not None:
            migrations = importlib.import_module("services.runtime.migrations")
            migrations.migrate(url, service, location)
    _remember_verdicts(url)
    return name


def _remember_verdicts(url: str) -> None:
    """Spare every service of the tests the look at strategies that do nothing forbidden; peek is looked at."""
    from services.backtest.catalogue import Catalogue
    from services.backtest.statements import REMEMBER_VERDICT
    from services.backtest.strategies import StrategyRegistry

    catalogue = Catalogue(StrategyRegistry())
    rows = [
        {"code_hash": catalogue.code_hash(name), "strategy": name, "kline_index": None, "unproven": None}
        for name in catalogue.names()
        if name != "peek"
    ]
    with psycopg.connect(libpq_url(url)) as connection, connection.cursor() as cursor:
        cursor.executemany(REMEMBER_VERDICT, rows)


def find_migrations(service: str) -> Path | None:
    """Return the folder with a service's migrations, None when it has none."""
    spec = importlib.util.find_spec("services")
    assert spec is not None
    assert spec.submodule_search_locations
    location = Path(next(iter(spec.submodule_search_locations))) / service / "migrations"
    return location if (location / "env.py").exists() else None


@contextlib.contextmanager
def copy_database(server: PostgresServer, template: str) -> Iterator[str]:
    """Yield the URL of a fresh copy of the template; it is dropped at the end, open connections and all."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(server, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield server.url(name)
    finally:
        if server.is_running():
            _execute(server, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _remove_abandoned(base: Path) -> None:
    """Remove what a killed session left; its name says whose it was, and its servers died with it."""
    for home in base.glob(f"{HOME_PREFIX}*"):
        owner = home.name.removeprefix(HOME_PREFIX).split("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(home, ignore_errors=True)


def _execute(server: PostgresServer, statement: sql.Composed) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement)
