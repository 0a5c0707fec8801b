"""What operators and foreign clients see: metrics, one trace, an outage of the database, buf curl."""

import json
import subprocess
import sys
import time
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from klinecast.errors import Unavailable
from services.local.postgres import PostgresServer
from tests import postgres
from tests.broker import Broker
from tests.factories import START_MS, make_columns, make_config, make_series
from tests.suite import Suite, run_suite

BACKTEST_METRICS = (
    'klinecast_backtest_backtests_total{state="SUCCEEDED"}',
    "klinecast_backtest_duration_seconds_count",
    'klinecast_backtest_phase_duration_seconds_count{phase="load"}',
    "klinecast_backtest_wait_seconds_count",
    "klinecast_backtest_active",
    "klinecast_backtest_queued",
)


def read_metrics(suite: Suite, name: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{suite.metrics(name)}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_a_backtest_is_counted_once(suite: Suite) -> None:
    with suite.client() as client:
        before = read_metrics(suite, "backtest")
        list(client.run_backtest(make_config(client)))
    deadline, after = time.monotonic() + 5, before
    while after[BACKTEST_METRICS[0]] == before[BACKTEST_METRICS[0]] and time.monotonic() < deadline:
        after = read_metrics(suite, "backtest")
    assert after[BACKTEST_METRICS[0]] == before[BACKTEST_METRICS[0]] + 1
    assert set(BACKTEST_METRICS) <= set(after)
    for name in ("data", "backtest", "results"):
        assert any(line.startswith("grpc_server_handled_total{") for line in read_metrics(suite, name))


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[tuple[str, bytes]] = []

    def Export(self, request, context):  # noqa: N802 - the name of the RPC
        for resource in request.resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            self.spans += [(service, span.trace_id) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.mark.parametrize("executor", ["local", "celery"])
def test_one_trace_runs_from_submit_to_saved_result_and_the_log_names_it(
    session_home: Path, database_url: str, broker: Broker, executor: str
) -> None:
    collector = _Collector()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        settings = {"TRACING__OTLP_ENDPOINT": f"127.0.0.1:{port}", "EXECUTOR": executor, "BROKER_URL": broker.url}
        home = session_home / f"traced-{executor}"
        with run_suite(home, database_url, **settings) as suite, suite.client() as client:
            backtest_id = list(client.run_backtest(make_config(client)))[-1].backtest_id
        log = suite.workers[0].log() if executor == "celery" else suite.log("backtest")  # whole once all have stopped
    finally:
        server.stop(None).wait()
    services: dict[bytes, set[str]] = {}
    for service, trace_id in collector.spans:
        services.setdefault(trace_id, set()).add(service)
    wanted = {f"klinecast-{name}" for name in ("backtest", "worker", "data", "results")}
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]  # gRPC's core has lines of its own
    [ended] = [line for line in lines if line.get("backtest_id") == backtest_id]
    assert (ended["event"], ended["state"]) == ("attempt_ended", "SUCCEEDED")
    assert set(ended["phases_ms"]) >= {"queued", "load", "signals", "simulate", "statistics", "save"}
    assert wanted <= services[bytes.fromhex(ended["trace_id"])]


def test_an_outage_of_the_database_is_bounded_and_heals(
    session_home: Path, restartable_postgres: PostgresServer
) -> None:
    postgres.build_template(restartable_postgres, name="outage")
    url = restartable_postgres.url("outage")
    with run_suite(session_home / "outage", url) as suite, suite.client(timeout_s=4) as client:
        config = make_config(client)
        restartable_postgres.kill()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.create_backtest(config)
        assert time.monotonic() - began < 6
        restartable_postgres.start()
        back = time.monotonic()
        for name in ("data", "results", "backtest"):
            suite.wait_until_serving(name)
        assert time.monotonic() - back < 4
        with suite.client() as patient:
            assert list(patient.run_backtest(config))[-1].state == "SUCCEEDED"


def test_a_foreign_client_lists_and_streams(suite: Suite) -> None:
    series = make_series()
    with suite.client() as client:
        client.ingest_klines(series, [make_columns(10)])
    request = {
        "series": {
            "venue": "TEST",
            "marketType": "MARKET_TYPE_SPOT",
            "symbol": series.symbol,
            "interval": "INTERVAL_1_HOUR",
        },
        "startTime": "2024-01-01T00:00:00Z",
        "endTime": "2024-01-02T00:00:00Z",
    }
    buf = [str(Path(sys.executable).parent / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    target = f"http://{suite.target('data')}"
    listed = subprocess.run([*buf, "--list-services", target], capture_output=True, text=True, timeout=30, check=False)
    assert "klinecast.api.data.v1.DataService" in listed.stdout, listed.stderr
    method = f"{target}/klinecast.api.data.v1.DataService/StreamKlines"
    done = subprocess.run(
        [*buf, "--data", json.dumps(request), method], capture_output=True, text=True, timeout=30, check=False
    )
    batch = json.loads(done.stdout)["batch"]
    assert batch["openTimeMs"][0] == str(START_MS)
    assert len(batch["close"]) == 10
