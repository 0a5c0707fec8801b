"""What processes that run strategies have, and have not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klinecast.client import Client
from services.local.process import with_variables
from services.runtime.config import forget_settings
from tests.factories import make_config
from tests.security import Secured
from tests.suite import Suite


def test_workers_cannot_gain_privileges_and_leave_no_core_files(
    secured_suite: Suite, connect: Callable[..., Client]
) -> None:
    client = connect("user", "ingest")
    list(client.run_backtest(make_config(client)))
    processes = [secured_suite.process(name) for name in ("data", "results", "backtest")]
    workers = processes[-1].children(recursive=True)
    assert workers
    for process in (*processes, *workers):
        assert "NoNewPrivs:\t1" in Path(f"/proc/{process.pid}/status").read_text()
        [core] = [line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "core file" in line]
        assert core.split()[4:6] == ["0", "0"]


def test_settings_are_forgotten_once_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__URL", "postgresql://u:canary@h/d")
    monkeypatch.setenv("KLINECASTLE", "stays")
    forget_settings()
    assert "KLINECAST_DATABASE__URL" not in os.environ
    assert os.environ["KLINECASTLE"] == "stays"


def test_the_command_has_certificates_and_a_token_too(secured_suite: Suite, secured: Secured) -> None:
    def klinecast(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        targets = {f"{name.upper()}_TARGET": secured_suite.target(name) for name in ("data", "backtest", "results")}
        variables = {f"KLINECAST_{name}": value for name, value in (targets | settings).items()}
        command = with_variables(variables, [sys.executable, "-m", "klinecast.cli", *arguments])
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    token = secured.token_file(secured.provider.token("cli", "user"))
    trusted = {"CLIENT__CA_FILE": str(secured.authority.ca_file), "CLIENT__TOKEN_FILE": str(token)}
    done = klinecast("strategies", "--json", **trusted)
    assert done.returncode == 0, done.stderr
    assert "dual_ma" in [one["name"] for one in json.loads(done.stdout)]
    done = klinecast("backtest", "list", CLIENT__CA_FILE=trusted["CLIENT__CA_FILE"])
    assert (done.returncode, done.stderr.strip()) == (1, "error: a bearer token is required")
    done = klinecast("--token-file", "/absent", "backtest", "list", CLIENT__CA_FILE=trusted["CLIENT__CA_FILE"])
    assert done.returncode == 1
    assert "/absent" in done.stderr


def test_tokens_are_made_by_a_command(tmp_path: Path) -> None:
    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.runtime.auth", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = make("--subject", "importer", "--role", "ingest", "--role", "user", "--tenant", "acme")
    entry, token = json.loads(done.stdout), done.stderr.strip()
    assert token.startswith("kc_")
    assert token not in done.stdout
    assert (entry["tenant"], entry["roles"]) == ("acme", ["ingest", "user"])
    bad = make("--subject", "x", "--role", "user", "--tenant", "../x")
    assert bad.returncode == 2
    assert "--tenant" in bad.stderr
