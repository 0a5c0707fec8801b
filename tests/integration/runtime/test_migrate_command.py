"""python -m services.<service> --migrate: what a Job runs before a rollout."""

import subprocess
import sys
import time

import psycopg
import pytest

from services.local.postgres import PostgresServer
from services.local.process import with_variables
from services.runtime.config import DatabaseSettings, RuntimeSettings
from services.runtime.database import libpq_url
from services.runtime.server import StartError, bring_up_to_date
from tests.integration.runtime.conftest import MIGRATIONS


def start(service: str, url: str) -> "subprocess.Popen[str]":
    command = with_variables(
        {"KLINECAST_DATABASE__URL": url}, [sys.executable, "-m", f"services.{service}", "--migrate"]
    )
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def count_tables(url: str, schema: str) -> int:
    with psycopg.connect(libpq_url(url)) as connection:
        query = "SELECT count(*) FROM information_schema.tables WHERE table_schema = %s"
        return (connection.execute(query, (schema,)).fetchone() or [0])[0]


@pytest.mark.parametrize("service", ["data", "backtest", "results"])
def test_it_brings_the_tables_and_ends(empty_database_url: str, service: str) -> None:
    for _ in range(2):  # the second finds nothing to do
        process = start(service, empty_database_url)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
    assert count_tables(empty_database_url, service) > 2


def test_it_waits_for_a_database_that_comes_later(restartable_postgres: PostgresServer) -> None:
    url = restartable_postgres.url("postgres")
    restartable_postgres.stop()
    process = start("results", url)
    assert process.stderr is not None
    assert "migration_waits_for_database" in process.stderr.readline()
    restartable_postgres.start()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert count_tables(url, "results") > 2


async def test_it_gives_up_where_there_is_no_database() -> None:
    settings = RuntimeSettings(database=DatabaseSettings(url="postgresql://nobody@127.0.0.1:1/nothing"))
    began = time.monotonic()
    with pytest.raises(StartError, match=r"KLINECAST_DATABASE__URL: no migration in 0.5 s: OperationalError"):
        await bring_up_to_date(settings, MIGRATIONS, wait_s=0.5)
    assert 0.5 <= time.monotonic() - began < 5


def test_a_schema_of_a_later_release_is_said_and_no_fault(empty_database_url: str) -> None:
    for revision in ("0001", "9999"):
        process = start("results", empty_database_url)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
        assert ("schema_is_ahead" in log) == (revision == "9999")
        with psycopg.connect(libpq_url(empty_database_url)) as connection:
            connection.execute("UPDATE results.alembic_version SET version_num = '9999'")


async def test_a_migration_that_runs_is_not_cut_off(empty_database_url: str) -> None:
    settings = RuntimeSettings(database=DatabaseSettings(url=empty_database_url))
    await bring_up_to_date(settings, MIGRATIONS, wait_s=0.0)
    assert count_tables(empty_database_url, "echo") == 2


def test_a_migration_that_fails_is_one_line_and_exit_code_1(empty_database_url: str) -> None:
    with psycopg.connect(libpq_url(empty_database_url), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA results; CREATE TABLE results.results (something_else int)")
    process = start("results", empty_database_url)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert log.splitlines()[-1] == "the migrations of schema results failed; the log says why"
