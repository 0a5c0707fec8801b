"""A Postgres server on a data directory of ours: reached through a Unix socket only, gone when its supervisor is gone.

Knows no service and no schema. Anyone who can open the socket is a superuser, so the socket's directory is private.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg

from services.local.postgres_binaries import PostgresBinaries, PostgresError, install_binaries, make_directory
from services.local.postgres_leftovers import stop_leftovers

PORT = 5432
"""Names the socket's file; nothing listens on TCP."""
SUPERUSER = "klinecast"
_LONGEST_SOCKET_PATH = 100
_START_SECONDS = 60.0
_POLL_SECONDS = 0.02
_OPTIONS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
_FAST_AND_LOOSE = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB"}
"""What is committed survives the server's death, not the machine's; synchronous_commit=off would lose it in either."""


class PostgresServer:
    """One server; start() and stop() may follow each other any number of times, the data stays.

    Start it from a thread that lives as long as the server should: Linux stops the server when that thread ends.
    """

    def __init__(self, home: Path, *, durable: bool = True, name: str = "postgres") -> None:
        """Describe the server whose state is home/name; durable=False is quick but survives no power cut (tests)."""
        self._home = home.resolve()
        self._state = self._home / name
        self._durable = durable
        self._binaries: PostgresBinaries | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_directory: Path | None = None

    @property
    def data_directory(self) -> Path:
        """Where the cluster lives (PGDATA)."""
        return self._state / "data"

    @property
    def log_file(self) -> Path:
        """What the server has said since its last start()."""
        return self._home / "logs" / f"{self._state.name}.log"

    @property
    def pid(self) -> int | None:
        """The server's process id, None when it is not running."""
        return self._process.pid if self._process is not None and self.is_running() else None

    def is_running(self) -> bool:
        """Return whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def url(self, database: str = "postgres") -> str:
        """Return a URL that psycopg and SQLAlchemy both take. It stays the same for as long as this object lives."""
        host = quote(str(self._find_socket_directory()))
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port={PORT}"

    def start(self) -> None:
        """Start the server and return when it takes connections; leftovers of a killed run are stopped first.

        Raises PostgresError with the end of the server's log when it does not come up.
        """
        if self.is_running():
            return
        self._binaries = install_binaries(self._home)
        for directory in (self._state, self.log_file.parent):
            make_directory(directory)
        stop_leftovers(self.data_directory)
        self._initialise(self._binaries)
        self._make_socket_directory(self._binaries)
        self._process = self._spawn(self._binaries)
        self._wait_until_ready(self._process)

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        """Stop the server, by force after the time-out; data is kept. Harmless when it is not running."""
        process = self._process
        if process is not None:
            for sent, patience in ((signal.SIGINT, timeout_seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
                if _signal_and_wait(process, sent, patience):
                    break
        self._forget()

    def kill(self) -> None:
        """Kill the server as a crash would, its backends included; start() recovers from it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            stop_leftovers(self.data_directory)
        self._process = None

    def ensure_database(self, database: str) -> str:
        """Create the database if it is not there and return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone()
            if found is None:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database)))
        return self.url(database)

    def __enter__(self) -> "PostgresServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _initialise(self, binaries: PostgresBinaries) -> None:
        """Run initdb beside the data directory and rename it, so that a kill in between leaves nothing half made."""
        if self.data_directory.exists():
            return
        scratch = self._state / "data.new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        binaries.give(scratch)
        arguments = [
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            f"--username={SUPERUSER}",
        ]
        arguments += [] if self._durable else ["--no-sync"]
        command = binaries.command("initdb", f"--pgdata={scratch}", *arguments)
        made = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if made.returncode != 0:
            raise PostgresError(f"initdb failed: {made.stderr.strip()}")
        scratch.rename(self.data_directory)

    def _spawn(self, binaries: PostgresBinaries) -> subprocess.Popen[bytes]:
        options = _OPTIONS | {"unix_socket_directories": str(self._find_socket_directory())}
        options |= {} if self._durable else _FAST_AND_LOOSE
        arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        command = binaries.command("postgres", "-D", str(self.data_directory), *arguments, follow_parent=True)
        with self.log_file.open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the word the server writes into its lock file once it takes connections."""
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            lines = _read_lock_file(self.data_directory)
            if lines[:1] == [str(process.pid)] and lines[7:8] == ["ready"]:
                return
            time.sleep(_POLL_SECONDS)
        self.stop(timeout_seconds=5.0)
        raise PostgresError(f"Postgres did not start; its log {self.log_file} ends:\n{_read_tail(self.log_file)}")

    def _find_socket_directory(self) -> Path:
        """Choose below home, or a short temporary name where the path would be longer than a socket's may be."""
        if self._socket_directory is None:
            inside = self._state / "socket"
            too_long = len(os.fsencode(inside / f".s.PGSQL.{PORT}")) >= _LONGEST_SOCKET_PATH
            self._socket_directory = Path(tempfile.mkdtemp(prefix="klinecast-", dir="/tmp")) if too_long else inside
        return self._socket_directory

    def _make_socket_directory(self, binaries: PostgresBinaries) -> None:
        directory = self._find_socket_directory()
        directory.mkdir(exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        binaries.give(directory)

    def _forget(self) -> None:
        """Drop what only a running server needs; a temporary socket directory is made anew under the same name."""
        self._process = None
        if self._socket_directory is not None and self._state not in self._socket_directory.parents:
            shutil.rmtree(self._socket_directory, ignore_errors=True)


def _signal_and_wait(process: subprocess.Popen[bytes], sent: signal.Signals, patience: float) -> bool:
    """Return whether the process has ended."""
    process.send_signal(sent)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    return process.poll() is not None


def _read_lock_file(data_directory: Path) -> list[str]:
    try:
        return [line.strip() for line in (data_directory / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _read_tail(path: Path, *, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
