"""Migrations, run by many at once, again, and apart from other services'."""

import contextlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from services.runtime.migrations import migrate

LOCATION = Path(__file__).parent / "echo_migrations"


def words(url: str) -> list[str]:
    """Return the rows that the migration wrote."""
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT word FROM echo.words")]


def test_ten_instances_may_start_at_once(empty_database_url: str) -> None:
    script = (
        "import sys, pathlib; from services.runtime.migrations import migrate;"
        "migrate(sys.argv[1], 'echo', pathlib.Path(sys.argv[2]))"
    )
    run = [sys.executable, "-c", script, empty_database_url, str(LOCATION)]
    with ThreadPoolExecutor(10) as pool:
        done = list(pool.map(lambda _: subprocess.run(run, capture_output=True, check=False), range(10)))
    assert [one.returncode for one in done] == [0] * 10
    assert words(empty_database_url) == ["kline"]


def test_threads_of_one_process_may_migrate_at_once(empty_database_url: str) -> None:
    threads = [threading.Thread(target=migrate, args=(empty_database_url, "echo", LOCATION)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words(empty_database_url) == ["kline"]


def test_version_table_lives_in_the_schema(empty_database_url: str) -> None:
    migrate(empty_database_url, "echo", LOCATION)
    with psycopg.connect(empty_database_url) as connection:
        rows = connection.execute(
            "SELECT table_schema FROM information_schema.tables WHERE table_name='alembic_version'"
        )
        assert rows.fetchall() == [("echo",)]


def test_failed_migration_leaves_nothing_and_can_be_repeated(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA echo; CREATE TABLE echo.words (word int)")
        with pytest.raises(sa.exc.ProgrammingError):
            migrate(empty_database_url, "echo", LOCATION)
        connection.execute("DROP TABLE echo.words")
    migrate(empty_database_url, "echo", LOCATION)
    assert words(empty_database_url) == ["kline"]


@pytest.mark.parametrize(("revision", "is_refused"), [("0002", False), ("9999", False), ("0000", True)])
def test_a_schema_of_a_later_release_is_left_alone(empty_database_url: str, revision: str, is_refused: bool) -> None:
    migrate(empty_database_url, "echo", LOCATION)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("UPDATE echo.alembic_version SET version_num = %s", (revision,))
        with pytest.raises(CommandError) if is_refused else contextlib.nullcontext():
            migrate(empty_database_url, "echo", LOCATION)
        assert connection.execute("SELECT version_num FROM echo.alembic_version").fetchone() == (revision,)
    assert words(empty_database_url) == ["kline"]


def test_a_migration_that_waits_for_a_table_gives_up_soon(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, all who come after it for that table wait too."""
    monkeypatch.setattr("services.runtime.migrations.TABLE_LOCK_TIMEOUT_MS", 200)
    with psycopg.connect(empty_database_url) as reader:
        reader.execute("CREATE SCHEMA echo; CREATE TABLE echo.alembic_version (version_num varchar(32) PRIMARY KEY)")
        reader.commit()
        reader.execute("LOCK TABLE echo.alembic_version IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        with pytest.raises(sa.exc.OperationalError):
            migrate(empty_database_url, "echo", LOCATION)
        assert time.monotonic() - started < 5
    migrate(empty_database_url, "echo", LOCATION)
    assert words(empty_database_url) == ["kline"]


def test_absent_server_is_an_operational_error() -> None:
    with pytest.raises(sa.exc.OperationalError):
        migrate("postgresql://nobody@127.0.0.1:1/none", "echo", LOCATION)
