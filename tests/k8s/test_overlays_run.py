"""Both overlays run: migrations, probes, a backtest from a caller to its result, the end within the grace."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from klinecast.client import Client, Security
from tests.broker import Broker
from tests.factories import make_config
from tests.faults.proxy import proxy_to_database
from tests.k8s.cluster import required_secrets
from tests.k8s.emulation import Emulation, compile_kernels
from tests.k8s.objects import build_overlay, find_tool
from tests.security import Secured

CALLER = "caller"


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path / "authority")


@pytest.fixture
def database_over_tcp(empty_database_url: str) -> Iterator[str]:
    """Return the URL of a database that others than the user of its socket reach."""
    with proxy_to_database(empty_database_url) as (_, url):
        yield url


@pytest.fixture
def secrets(secured: Secured, database_over_tcp: str, broker: Broker) -> dict[str, dict[str, bytes]]:
    """Return what docs/operations.md has an operator make, of files that an editor ended with a line."""
    contents = {"url": f"{database_over_tcp}\n", "token": secured.service_token, "password": "unused"}
    files = {"ca.crt": secured.authority.ca_file, "tokens.json": secured.tokens_file}
    files["jwks.json"] = secured.provider.jwks_file
    found: dict[str, dict[str, bytes]] = {}
    for name, keys in required_secrets().items():
        own = secured.authority.issue(name) if "tls.crt" in keys else None
        pair = {"tls.crt": own.certificate_file, "tls.key": own.key_file} if own else {}
        read = {key: path.read_bytes() for key, path in (files | pair).items()}
        found[name] = {key: read[key] if key in read else contents[key].encode() for key in keys}
    found["klinecast-broker"] = {"url": f"{broker.url}\n".encode()}
    return found


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the kernels as the image has them."""
    if find_tool("kubectl") is None or importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubectl and kubernetes-validate are not installed: make k8s-check installs them")
    folder = tmp_path_factory.mktemp("kernels")
    compile_kernels(folder)
    return folder


@contextlib.contextmanager
def run_overlay(name: str, home: Path, secrets: dict[str, dict[str, bytes]], kernels: Path) -> Iterator[Emulation]:
    emulation = Emulation(build_overlay(name), home, secrets, kernels)
    try:
        emulation.migrate()
        emulation.start()
        yield emulation
    finally:
        codes = emulation.stop()
    assert set(codes.values()) == {0}, codes
    for owner in codes:
        assert emulation.compiled(owner) == set(), owner


def dial(emulation: Emulation, security: Security | None) -> Client:
    data, backtest, results = (emulation.target(f"klinecast-{name}") for name in ("data", "backtest", "results"))
    return Client(data=data, backtest=backtest, results=results, security=security)


def sign_in(emulation: Emulation, secured: Secured) -> Security:
    """Return what a caller of the production overlay shows: a certificate and its provider's token."""
    said = {
        claim: emulation.value("klinecast-data", f"KLINECAST_AUTH__{name}")
        for claim, name in (("iss", "ISSUER"), ("aud", "AUDIENCE"))
    }
    return secured.security(secured.provider.token(CALLER, "user", "ingest", said=said), certificate=True)


def run_backtest(client: Client) -> None:
    event = list(client.run_backtest(make_config(client)))[-1]
    assert event.state == "SUCCEEDED", event
    assert client.get_result(str(event.result_id)).statistics["trade_count"] > 0


def test_local(tmp_path: Path, secrets: dict[str, dict[str, bytes]], kernels: Path) -> None:
    with run_overlay("local", tmp_path / "pods", secrets, kernels) as emulation, dial(emulation, None) as client:
        run_backtest(client)


def test_production(tmp_path: Path, secrets: dict[str, dict[str, bytes]], secured: Secured, kernels: Path) -> None:
    with (
        run_overlay("production", tmp_path / "pods", secrets, kernels) as emulation,
        dial(emulation, sign_in(emulation, secured)) as client,
    ):
        run_backtest(client)
