"""The embedded Postgres: starting, stopping, and coming back from what a killed run leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from services.local.postgres import PostgresServer
from services.local.postgres_binaries import PostgresError
from services.local.postgres_leftovers import stop_leftovers

RUN_AND_HANG = """
import sys, time
from pathlib import Path
from services.local.postgres import PostgresServer
server = PostgresServer(Path(sys.argv[1]), durable=False, name=sys.argv[2])
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def query(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def started_by_another(home: Path, name: str) -> tuple[subprocess.Popen[str], int]:
    """Start a server in a process of its own and return that process and the server's pid."""
    command = [sys.executable, "-c", RUN_AND_HANG, str(home), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_data_survives_stop_and_start(restartable_postgres: PostgresServer) -> None:
    url = restartable_postgres.ensure_database("klinecast")
    query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    restartable_postgres.stop()
    restartable_postgres.start()
    assert restartable_postgres.ensure_database("klinecast") == url
    assert query(url, "SELECT answer FROM kept") == 42


def test_data_survives_a_kill(restartable_postgres: PostgresServer) -> None:
    query(restartable_postgres.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    restartable_postgres.kill()
    restartable_postgres.start()
    assert query(restartable_postgres.url(), "SELECT answer FROM kept") == 42


def test_stop_ends_the_server_and_its_children(restartable_postgres: PostgresServer) -> None:
    assert restartable_postgres.pid is not None
    family = [restartable_postgres.pid, *(child.pid for child in psutil.Process(restartable_postgres.pid).children())]
    restartable_postgres.stop()
    assert all(has_ended(pid) for pid in family)
    assert restartable_postgres.pid is None


def test_start_when_running_changes_nothing(restartable_postgres: PostgresServer) -> None:
    before = restartable_postgres.pid
    restartable_postgres.start()
    assert restartable_postgres.pid == before


def test_only_a_private_socket_listens(restartable_postgres: PostgresServer) -> None:
    assert query(restartable_postgres.url(), "SHOW listen_addresses") == ""
    directory = query(restartable_postgres.url(), "SHOW unix_socket_directories")
    assert isinstance(directory, str)
    assert Path(directory).stat().st_mode & 0o777 == 0o700
    assert psutil.Process(restartable_postgres.pid).net_connections("tcp") == []


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_server_ends_with_a_killed_supervisor(session_home: Path) -> None:
    supervisor, pid = started_by_another(session_home, "orphan")
    kill(supervisor)
    _, alive = psutil.wait_procs([psutil.Process(pid)], timeout=10) if not has_ended(pid) else ([], [])
    assert not [process for process in alive if not has_ended(process.pid)]


def test_server_of_a_killed_run_is_replaced(session_home: Path) -> None:
    """Where no signal tells of a parent's death the server is still at work, as it is here."""
    supervisor, pid = started_by_another(session_home, "left")
    with PostgresServer(session_home, durable=False, name="left") as server:
        assert server.pid != pid
        assert query(server.url(), "SELECT 1") == 1
    assert has_ended(pid)
    kill(supervisor)


def test_lock_file_with_a_strangers_pid_is_not_believed(restartable_postgres: PostgresServer) -> None:
    restartable_postgres.kill()
    lock_file = restartable_postgres.data_directory / "postmaster.pid"
    lock_file.write_text(f"{os.getpid()}\n{restartable_postgres.data_directory}\n0\n5432\n\n\n\nready\n")
    restartable_postgres.start()
    assert query(restartable_postgres.url(), "SELECT 1") == 1


def test_half_made_data_directory_is_made_anew(session_home: Path) -> None:
    half = session_home / "half" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with PostgresServer(session_home, durable=False, name="half") as server:
        assert query(server.url(), "SELECT 1") == 1


def test_failed_start_shows_the_servers_log(restartable_postgres: PostgresServer) -> None:
    restartable_postgres.stop()
    (restartable_postgres.data_directory / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match="no_such_setting"):
        restartable_postgres.start()
    assert not restartable_postgres.is_running()


def test_long_home_gets_a_short_socket(session_home: Path) -> None:
    with PostgresServer(session_home / ("long" * 20), durable=False) as server:
        directory = str(query(server.url(), "SHOW unix_socket_directories"))
        assert len(directory) < 80
    assert not Path(directory).exists()


def test_stop_leftovers_of_nothing_is_harmless(tmp_path: Path) -> None:
    stop_leftovers(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_root_is_told_of_a_home_nobody_may_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(PostgresError, match="KLINECAST_HOME"):
        PostgresServer(tmp_path / "home").start()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_each_test_has_a_database_of_its_own(database_url: str, empty_database_url: str) -> None:
    names = {query(url, "SELECT current_database()") for url in (database_url, empty_database_url)}
    assert len(names) == 2
