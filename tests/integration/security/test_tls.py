"""Who is spoken to at all: certificates, their rotation, probes, and what a server refuses to start with."""

import asyncio
import re
import shutil
import socket
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import grpc
import grpc.aio
import pytest

from klinecast.client import Client, Security
from klinecast.client._channel import open_channel
from klinecast.errors import InvalidArgument, Unavailable
from services.local.running import is_serving
from services.runtime.app import Runtime
from services.runtime.config import RuntimeSettings, SettingsError, load_settings
from services.runtime.server import running
from tests.factories import make_config
from tests.security import Authority, Secured, replace_file
from tests.suite import Suite, run_suite


@pytest.fixture
def mutual(session_home: Path, database_url: str) -> Iterator[tuple[Suite, Secured]]:
    """Return a deployment whose services and clients all show certificates."""
    home = session_home / f"mutual-{uuid.uuid4().hex[:8]}"
    secured = Secured(home / "files")
    with run_suite(home, database_url, **secured.settings(mtls=True)) as suite:
        yield suite, secured


def problem(suite: Suite, security: Security | None) -> tuple[float, BaseException]:
    """Return how a client's call ends, and after how many seconds gRPC itself said so."""
    credentials = None if security is None else security.channel_credentials()
    target = suite.target("data")
    channel = grpc.secure_channel(target, credentials) if credentials else grpc.insecure_channel(target)
    with channel:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/klinecast.api.data.v1.DataService/ListSeries")(b"", timeout=10)
        return time.monotonic() - began, error.value


def test_h8_who_speaks_no_tls_or_trusts_others_gets_nothing_at_once(
    secured_suite: Suite, secured: Secured, tmp_path: Path
) -> None:
    stranger = Security(ca_file=str(Authority(tmp_path, "stranger").ca_file))
    for security in (None, stranger):
        seconds, error = problem(secured_suite, security)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert seconds < 1
    with socket.create_connection(secured_suite.target("data").rsplit(":", 1)) as plain:
        plain.settimeout(10)
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
        assert b"klinecast" not in _all_of(plain)


def test_h8_a_certificate_of_the_clients_own_is_asked_for(mutual: tuple[Suite, Secured], tmp_path: Path) -> None:
    suite, secured = mutual
    token = secured.provider.token("a", "user", "ingest")
    with suite.client(security=secured.security(token, certificate=True)) as client:
        assert list(client.run_backtest(make_config(client)))[-1].state == "SUCCEEDED"  # services and workers, too
    without = secured.security(token)
    foreign = Authority(tmp_path, "stranger").issue("client")
    strange = Security(str(secured.authority.ca_file), str(foreign.certificate_file), str(foreign.key_file))
    for security in (without, strange):
        assert problem(suite, security)[1].code() is grpc.StatusCode.UNAVAILABLE


def test_h14_certificates_are_rotated_without_a_restart_or_a_failed_call(
    mutual: tuple[Suite, Secured], tmp_path: Path
) -> None:
    suite, secured = mutual
    token = secured.provider.token("a", "user", "ingest")
    security = secured.security(token, certificate=True)
    own = Path(str(security.certificate_file)), Path(str(security.key_file))
    with suite.client(security=security) as client:
        config = make_config(client)
        list(client.list_series())
        before = served_certificate(suite, secured)
        renewed = secured.authority.issue("server")
        assert renewed == secured.server
        secured.authority.issue("client")
        deadline = time.monotonic() + 3
        with open_channel(suite.target("data"), security, ()) as plain:  # as the SDK opens it, but nothing tries again
            listing = plain.unary_unary("/klinecast.api.data.v1.DataService/ListSeries")
            while time.monotonic() < deadline:
                listing(b"", metadata=(("authorization", f"Bearer {token}"),), timeout=5)
        assert served_certificate(suite, secured) != before
        assert list(client.run_backtest(config))[-1].state == "SUCCEEDED"
        shutil.copy(own[1], tmp_path / "key")
        replace_file(secured.server.key_file, own[1].read_bytes())  # not the certificate's: the pair before stays
        assert served_certificate(suite, secured) != before
    assert "certificate_not_taken" in suite.log("data")
    assert "certificate_taken" in suite.log("data")
    assert metric(suite, "auth_files_refused_total") >= 1
    assert 0.9 < (metric(suite, "certificate_expiry_timestamp_seconds") - time.time()) / 86_400 < 1.0


def metric(suite: Suite, name: str) -> float:
    page = urllib.request.urlopen(f"http://{suite.metrics('data')}/metrics", timeout=5).read().decode()
    [line] = [one for one in page.splitlines() if one.startswith(f"klinecast_data_{name} ")]
    return float(line.split()[1])


def served_certificate(suite: Suite, secured: Secured) -> str:
    import ssl

    host, port = suite.target("data").rsplit(":", 1)
    context = ssl.create_default_context(cafile=secured.authority.ca_file)
    context.load_cert_chain(secured.client.certificate_file, secured.client.key_file)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        return str(tls.getpeercert()["serialNumber"])  # type: ignore[index]


def test_i3_probes_ask_in_plaintext_and_get_nothing_else(secured_suite: Suite, secured: Secured) -> None:
    assert not is_serving(secured_suite.target("data"))
    probed = secured_suite.probed("data")
    assert is_serving(probed)
    with grpc.insecure_channel(probed) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/klinecast.api.data.v1.DataService/ListSeries")(b"", timeout=5)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"LISTEN": "0.0.0.0:0"}, "KLINECAST_INSECURE_BIND_WITHOUT_TLS"),
        ({"LISTEN": "0.0.0.0:0", "INSECURE_BIND_WITHOUT_TLS": "true"}, "KLINECAST_INSECURE_BIND_WITHOUT_AUTH"),
        ({"LISTEN": "0.0.0.0:0", "INSECURE_BIND_WITHOUT_AUTH": "true"}, "KLINECAST_TLS__CERTIFICATE_FILE"),
        ({"TLS__CERTIFICATE_FILE": "{server.crt}"}, "KLINECAST_TLS__KEY_FILE is required"),
        ({"TLS__CLIENT_CA_FILE": "{ca.crt}"}, "KLINECAST_TLS__CLIENT_CA_FILE needs"),
        (
            {"TLS__CERTIFICATE_FILE": "{server.crt}", "TLS__KEY_FILE": "{absent}"},
            "KLINECAST_TLS__KEY_FILE: cannot read",
        ),
        ({"TLS__CERTIFICATE_FILE": "{server.crt}", "TLS__KEY_FILE": "{client.key}"}, "is not the key of"),
        ({"TLS__CERTIFICATE_FILE": "{tokens.json}", "TLS__KEY_FILE": "{client.key}"}, "holds no certificate"),
        ({"AUTH__JWKS_FILE": "{jwks.json}", "AUTH__AUDIENCE": "x"}, "KLINECAST_AUTH__ISSUER is required"),
        ({"AUTH__JWKS_FILE": "{jwks.json}", "AUTH__ISSUER": "x"}, "KLINECAST_AUTH__AUDIENCE is required"),
        ({"AUTH__TOKENS_FILE": "{absent}"}, "KLINECAST_AUTH__TOKENS_FILE: cannot read"),
        ({"AUTH__TOKENS_FILE": "{jwks.json}"}, "KLINECAST_AUTH__TOKENS_FILE: "),
        (
            {"AUTH__JWKS_FILE": "{tokens.json}", "AUTH__ISSUER": "x", "AUTH__AUDIENCE": "x"},
            "KLINECAST_AUTH__JWKS_FILE: ",
        ),
    ],
)
def test_half_of_it_is_refused_at_the_start(
    secured: Secured, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], named: str
) -> None:
    known = {"DATABASE__URL": "postgresql://nobody@127.0.0.1:1/none", "LISTEN": "127.0.0.1:0"}
    for name, value in (known | settings).items():
        path = f"{secured.folder}/{value[1:-1]}" if value.startswith("{") else value
        monkeypatch.setenv(f"KLINECAST_{name}", path)

    async def start() -> None:
        async with running("data", load_settings(RuntimeSettings), idle_app):
            pytest.fail("it started")

    with pytest.raises(SettingsError, match=re.escape(named)):
        asyncio.run(start())


class IdleApp:
    access = MappingProxyType({})

    def register(self, server: grpc.aio.Server) -> None:
        pass

    async def ready(self) -> bool:
        return True


@asynccontextmanager
async def idle_app(settings: RuntimeSettings, runtime: Runtime) -> AsyncIterator[IdleApp]:
    yield IdleApp()


def test_halves_of_a_client_are_refused(secured: Secured) -> None:
    with pytest.raises(InvalidArgument, match=r"security\.key_file"):
        Security(ca_file="x", certificate_file="y")
    with pytest.raises(InvalidArgument, match=r"security\.ca_file"):
        Security(certificate_file="x", key_file="y")
    with (
        Client(data="127.0.0.1:1", security=Security(ca_file="/absent")) as client,
        pytest.raises(InvalidArgument, match=r"security\.ca_file: cannot read /absent"),
    ):
        list(client.list_series())
    with (
        Client(data="127.0.0.1:1", security=secured.security(None), timeout_s=0.2) as client,
        pytest.raises(Unavailable),
    ):
        list(client.list_series())


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(4096):
            received += part
    except OSError:
        pass
    return received
