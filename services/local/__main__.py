"""python -m services.local up|demo: the whole suite on this machine."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from services.local.demo import run_demo
from services.local.ports import DEFAULT_PORTS, FREE_PORTS, PortTakenError
from services.local.postgres_binaries import PostgresError
from services.local.running import HomeTakenError, Running
from services.local.settings import LocalSettings
from services.local.stopping import catch_signals
from services.local.supervisor import DeploymentError, StoppedError, run_deployment
from services.runtime.config import SettingsError, load_settings

_POLL_SECONDS = 0.2
_INTERRUPTED = 130


def main() -> int:
    """Run one command; 0: it did what it is for, 1: it could not, 130: interrupted before it had."""
    arguments = _parse(sys.argv[1:])
    is_stopping = catch_signals()
    try:
        settings = load_settings(LocalSettings)
        home, embedded_database = settings.find_home(), settings.database.url is None
        if arguments.command == "demo":
            return run_demo(home, is_stopping=is_stopping, embedded_database=embedded_database)
        return _run_up(home, is_stopping, embedded_database, free_ports=arguments.free_ports)
    except StoppedError:
        return _INTERRUPTED
    except (SettingsError, PortTakenError, PostgresError, HomeTakenError, DeploymentError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="run until interrupted")
    up.add_argument("--free-ports", action="store_true", help="take free ports instead of the usual ones")
    commands.add_parser("demo", help="import the sample and backtest it")
    return parser.parse_args(arguments)


def _run_up(home: Path, is_stopping: Callable[[], bool], embedded_database: bool, *, free_ports: bool) -> int:
    ports = FREE_PORTS if free_ports else DEFAULT_PORTS
    with run_deployment(
        "up", home, ports=ports, is_stopping=is_stopping, embedded_database=embedded_database
    ) as started:
        deployment, running = started
        _print_table(running, home)
        while not is_stopping():
            deployment.tend()
            time.sleep(_POLL_SECONDS)
        print("stopping ...", flush=True)
    return 0


def _print_table(running: Running, home: Path) -> None:
    print(f"{'service':10}{'gRPC':18}metrics")
    for name in sorted(running.targets):
        print(f"{name:10}{running.targets[name]:18}http://{running.metrics[name]}/metrics")
    print(f"state and logs are in {home}; Ctrl-C stops everything", flush=True)


if __name__ == "__main__":
    sys.exit(main())
