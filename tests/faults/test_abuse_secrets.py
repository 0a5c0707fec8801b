"""G11, H10, H11: names import nothing; secrets planted everywhere turn up nowhere, whatever breaks."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest

from klinecast.api.backtest.v1 import backtest_service_pb2 as pb
from klinecast.api.backtest.v1 import backtest_service_pb2_grpc
from klinecast.backtest_config import BacktestConfig
from klinecast.convert.backtest import config_to_proto
from klinecast.errors import InvalidArgument
from services.runtime.database import libpq_url
from tests import postgres
from tests.broker import Broker, run_broker
from tests.factories import make_config
from tests.faults.abuse.imports import ImportLog
from tests.suite import ORDER, Suite, run_suite

SECRET, OWN = "canary7f3a9", "birdsong51c"
"""The first is in every secret; the second in what a caller sends, which stays out of logs and metrics."""
NAMES = ("os:system", "a.b:C", "antigravity", "this", "../../x", "/etc/passwd", "tests.broker", "xmlrpc.server:Fault")
NEVER = (*NAMES, base64.b64encode(b"run:import antigravity").decode(), "dual_ma.__class__", "services.local.demo")
METADATA = (("authorization", f"Bearer {SECRET}"), ("klinecast-tenant", "planter"), ("x-api-key", SECRET))


@dataclass(slots=True)
class Planted:
    """A deployment with a broker, all of its secrets canaries; remembers what callers were told."""

    suite: Suite
    broker: Broker
    imports: ImportLog
    config: BacktestConfig
    told: list[str] = field(default_factory=list)

    def call(self, strategy: str, **params: object) -> None:
        """Create a backtest with a token and a label; remember the answer, details and trailers included."""
        proto = config_to_proto(self.config)
        proto.strategy = strategy
        proto.params.update(params)
        self.send("CreateBacktest", pb.CreateBacktestRequest(config=proto))

    def send(self, name: str, request: object) -> None:
        """Call the backtest service with a token; remember the answer."""
        with grpc.insecure_channel(self.suite.target("backtest")) as channel:
            stub = backtest_service_pb2_grpc.BacktestServiceStub(channel)
            try:
                self.told.append(str(getattr(stub, name)(request, timeout=10, metadata=METADATA)))
            except grpc.RpcError as error:
                self.told.append(f"{error.code()} {error.details()} {error.trailing_metadata()}")

    def logs(self) -> str:
        """Return what every process logged."""
        return "\n".join([*(self.suite.log(name) for name in ORDER), *(one.log() for one in self.suite.workers)])

    def pages(self) -> str:
        """Return every service's metrics."""
        urls = [f"http://{self.suite.metrics(name)}/metrics" for name in ORDER]
        return "\n".join(urllib.request.urlopen(url, timeout=5).read().decode() for url in urls)

    def command_lines(self) -> str:
        """Return what ps shows of every process."""
        parents = [*(self.suite.process(name) for name in ORDER), *(one.process for one in self.suite.workers)]
        family = [one for parent in parents for one in (parent, *parent.children(recursive=True))]
        lines = []
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                lines += one.cmdline()
        return "\n".join(lines)


@pytest.fixture(scope="module")
def planted(session_home: Path, postgres_server, template_database: str) -> Iterator[Planted]:
    home = session_home / "planted"
    imports = ImportLog(home / "hook")
    with (
        pytest.MonkeyPatch.context() as patch,
        postgres.copy_database(postgres_server, template_database) as url,
        run_broker(home / "broker") as broker,
    ):
        with contextlib.closing(broker.client()) as valkey:
            valkey.config_set("requirepass", SECRET)
        patch.setenv("PYTHONPATH", str(imports.directory))
        settings = {
            "EXECUTOR": "celery",
            "BROKER_URL": broker.url.replace("redis://", f"redis://:{SECRET}@"),
            "TRACING__OTLP_ENDPOINT": "127.0.0.1:1",
        }
        with run_suite(home / "suite", url.replace("@/", f":{SECRET}@/"), **settings) as suite:
            with suite.client() as client:
                config = make_config(client, labels={"note": OWN})
            yield Planted(suite, broker, imports, config)


def test_a_name_imports_nothing(planted: Planted) -> None:
    with planted.suite.client() as client:
        config = planted.config
        assert list(client.run_backtest(config))[-1].state == "SUCCEEDED"
        with pytest.raises(InvalidArgument):
            client.create_backtest(dataclasses.replace(config, strategy="no_such"))
        time.sleep(1.0)  # what was imported for the first time is
        before = planted.imports.names()
        assert {"numba", "grpc", "celery"} <= set(before)  # the hook is in services and workers
        for name in NEVER:
            with pytest.raises(InvalidArgument) as refused:
                client.create_backtest(dataclasses.replace(config, strategy=name))
            assert refused.value.violations[0].field == "config.strategy"
        assert list(client.run_backtest(config))[-1].state == "SUCCEEDED"
    after = planted.imports.names()[len(before) :]
    assert after == []


@pytest.mark.timeout(120)
def test_planted_secrets_are_nowhere(planted: Planted) -> None:
    with psycopg.connect(libpq_url(planted.suite.database_url), autocommit=True) as connection:
        planted.call("stumble", at=3, how="raise")
        planted.call("dual_ma", fast=OWN)
        planted.call("dual_ma", unknown=OWN)
        planted.send("GetBacktest", pb.GetBacktestRequest(backtest_id="x"))
        planted.send("ListBacktests", pb.ListBacktestsRequest(page_token="%%%"))
        connection.execute("ALTER TABLE backtest.backtests RENAME TO gone")
        planted.call("dual_ma", fast=10)
        planted.send("ListBacktests", pb.ListBacktestsRequest())
        connection.execute("ALTER TABLE backtest.gone RENAME TO backtests")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        planted.call("dual_ma", fast=11)
        planted.broker.kill()
        planted.call("dual_ma", fast=12)
        time.sleep(3.0)  # exporter, broker connections and dispatchers fail a few times
    logs, told = planted.logs(), "\n".join(planted.told)
    assert "INTERNAL" in told
    assert logs.count("unexpected_error") >= 2
    assert "Traceback" not in told
    found = {
        "told": told.count(SECRET),
        "logs": logs.count(SECRET),
        "own in logs": logs.count(OWN),
        "metrics": planted.pages().count(SECRET) + planted.pages().count(OWN),
        "command lines": planted.command_lines().count(SECRET),
    }
    for line in logs.splitlines():
        if SECRET in line or OWN in line:
            print(line[:3000])
    assert set(found.values()) == {0}, found
