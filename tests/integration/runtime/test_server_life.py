"""Birth, health and end of a server, over real sockets."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from services.local.postgres import PostgresServer
from services.runtime.app import Runtime
from services.runtime.config import DatabaseSettings, LimitSettings, RuntimeSettings, SettingsError, ShutdownSettings
from services.runtime.migrations import Migrations
from services.runtime.server import RunningServer, StartError
from services.runtime.server import serve as serve_until_signal
from tests.faults.proxy import proxy_to_database

SERVICE = "klinecast.test.EchoService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
Serve = Callable[..., Any]
Call = Callable[..., Any]


class IdleApp:
    """Serves nothing."""

    access = MappingProxyType({})

    def register(self, server: grpc.aio.Server) -> None:
        """Add nothing."""

    async def ready(self) -> bool:
        """Is always ready."""
        return True


@asynccontextmanager
async def idle_app(settings: RuntimeSettings, runtime: Runtime) -> AsyncIterator[IdleApp]:
    """Open it."""
    yield IdleApp()


def open_stream(channel: grpc.aio.Channel, name: str) -> Any:
    """Open a server stream of the test's service."""
    return channel.unary_stream(f"/{SERVICE}/{name}", None, StringValue.FromString)(b"")


async def health_of(channel: grpc.aio.Channel, name: str, *, wanted: int) -> int:
    """Return the health of a service, once it is the wanted one or after five seconds."""
    async for answer in health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=name), timeout=5
    ):
        if answer.status == wanted:
            break
    return int(answer.status)


async def read_all(call: Any) -> None:
    """Read a stream to its end."""
    while await call.read() is not grpc.aio.EOF:
        continue


async def reason_of_end(call: Any) -> str:
    """Return the reason with which a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await read_all(call)
    status = Status.FromString(dict(raised.value.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def page(server: RunningServer) -> str:
    """Return the metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=5) as response:
        text: str = response.read().decode()
    return text


async def test_ready_under_each_name_once_the_tables_are_there(serve: Serve, empty_database_url: str) -> None:
    async with serve(empty_database_url) as server, grpc.aio.insecure_channel(server.target) as channel:
        states = [await health_of(channel, name, wanted=SERVING) for name in ("", SERVICE, "liveness")]
        assert states == [SERVING] * 3
        call = channel.unary_unary(f"/{SERVICE}/Word", None, StringValue.FromString)
        assert (await call(b"")).value == "kline"


async def test_without_database_alive_but_not_ready(serve: Serve) -> None:
    async with serve(NO_DATABASE) as server, grpc.aio.insecure_channel(server.target) as channel:
        states = [await health_of(channel, name, wanted=SERVING) for name in ("liveness",)]
        check = health_pb2_grpc.HealthStub(channel).Check
        states += [(await check(health_pb2.HealthCheckRequest(service=name))).status for name in ("", SERVICE)]
        assert states == [SERVING, NOT_SERVING, NOT_SERVING]
        assert await reason_of_end(open_stream(channel, "Count")) == "DATABASE_UNAVAILABLE"


async def test_d7_a_server_without_its_database_is_ready_soon_after_that_comes(
    serve: Serve, restartable_postgres: PostgresServer
) -> None:
    await asyncio.to_thread(restartable_postgres.kill)
    async with serve(restartable_postgres.url()) as server, grpc.aio.insecure_channel(server.target) as channel:
        assert await health_of(channel, "liveness", wanted=SERVING) == SERVING
        check = health_pb2_grpc.HealthStub(channel).Check
        assert (await check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        await asyncio.to_thread(restartable_postgres.start)
        returned = time.monotonic()
        assert await health_of(channel, "", wanted=SERVING) == SERVING
        assert time.monotonic() - returned < 3


@pytest.mark.parametrize("link_is_dead", [False, True])
async def test_d10_a_query_does_not_hold_up_the_stop(serve: Serve, empty_database_url: str, link_is_dead: bool) -> None:
    with proxy_to_database(empty_database_url) as (proxy, url):
        async with serve(url, shutdown=ShutdownSettings(drain_seconds=0.5)) as server:
            channel = grpc.aio.insecure_channel(server.target)
            await server.runtime.migrated.wait()
            query = channel.unary_unary(f"/{SERVICE}/Query", None, StringValue.FromString)(b"")
            await asyncio.to_thread(wait_for_query, empty_database_url)
            if link_is_dead:
                proxy.swallow(new=True)
            started = time.monotonic()
        stopped_s = time.monotonic() - started
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await query
        await channel.close()
    print(f"\nstopped after {stopped_s:.1f} s")
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert stopped_s < (0.5 + 12 if link_is_dead else 3)


def wait_for_query(url: str) -> None:
    """Return once somebody's pg_sleep runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone():
            continue


async def test_streams_and_health_watches_end_at_once_at_shutdown(serve: Serve, empty_database_url: str) -> None:
    settings = ShutdownSettings(drain_seconds=30)
    async with serve(empty_database_url, shutdown=settings) as server:
        channel = grpc.aio.insecure_channel(server.target)
        await server.runtime.migrated.wait()
        watch, health = open_stream(channel, "Watch"), open_health(channel)
        await watch.read()
        await health.read()
        ends = asyncio.gather(reason_of_end(watch), reason_of_end(health))
        started = time.monotonic()
    assert time.monotonic() - started < 3
    assert await ends == ["SHUTTING_DOWN", "SHUTTING_DOWN"]
    await channel.close()


def open_health(channel: grpc.aio.Channel) -> Any:
    """Open a health watch."""
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())


async def test_stream_that_does_not_listen_is_ended_after_the_drain(serve: Serve, empty_database_url: str) -> None:
    async with serve(empty_database_url, shutdown=ShutdownSettings(drain_seconds=0.2)) as server:
        channel = grpc.aio.insecure_channel(server.target)
        await server.runtime.migrated.wait()
        stubborn = open_stream(channel, "Stubborn")
        await stubborn.read()
        end = asyncio.ensure_future(reason_of_end(stubborn))
    assert await end == "SHUTTING_DOWN"
    await channel.close()


async def test_calls_over_the_limit_are_refused_but_not_probes(serve: Serve, empty_database_url: str) -> None:
    async with (
        serve(empty_database_url, limits=LimitSettings(max_concurrent_rpcs=1)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        await server.runtime.migrated.wait()
        watch = open_stream(channel, "Watch")
        await watch.read()
        assert await reason_of_end(open_stream(channel, "Count")) == "LIMIT_EXCEEDED"
        assert await health_of(channel, "liveness", wanted=SERVING) == SERVING
        watch.cancel()


async def test_a_taken_port_is_refused(serve: Serve, server: RunningServer) -> None:
    with pytest.raises(StartError, match=f"cannot bind 127.0.0.1:{server.port}"):
        async with serve(NO_DATABASE, listen=server.target):
            pass


async def test_broken_migrations_end_the_process(empty_database_url: str, tmp_path: Path) -> None:
    settings = RuntimeSettings(database=DatabaseSettings(url=SecretStr(empty_database_url)))
    with pytest.raises(StartError, match="schema broken"):
        await serve_until_signal("broken", settings, idle_app, migrations=Migrations("broken", tmp_path))


async def test_a_server_of_the_release_before_serves_a_later_schema(serve: Serve, empty_database_url: str) -> None:
    async with serve(empty_database_url) as server:
        await server.runtime.migrated.wait()
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE echo.alembic_version SET version_num = '0002'")
    async with serve(empty_database_url) as server, grpc.aio.insecure_channel(server.target) as channel:
        assert await health_of(channel, SERVICE, wanted=SERVING) == SERVING
        assert not server.migrating.exception()


async def test_a_taken_metrics_port_is_refused(serve: Serve, server: RunningServer) -> None:
    with pytest.raises(StartError, match="KLINECAST_METRICS_LISTEN"):
        async with serve(NO_DATABASE, metrics_listen=f"127.0.0.1:{server.metrics_port}"):
            pass


async def test_open_to_other_machines_only_with_both_flags(serve: Serve) -> None:
    with pytest.raises(SettingsError, match="KLINECAST_INSECURE_BIND_WITHOUT_TLS") as error:
        async with serve(NO_DATABASE, listen="0.0.0.0:0"):
            pass
    assert "KLINECAST_INSECURE_BIND_WITHOUT_AUTH" in str(error.value)
    flags = {"insecure_bind_without_tls": True, "insecure_bind_without_auth": True}
    async with serve(NO_DATABASE, listen="0.0.0.0:0", **flags) as server:
        assert server.port > 0


async def test_calls_and_streams_are_counted(server: RunningServer, call: Call, stream: Call) -> None:
    await call("Echo", "w")
    with pytest.raises(grpc.aio.AioRpcError):
        await call("Echo", "")
    assert len([one async for one in stream("Count")]) == 3
    text = await asyncio.to_thread(page, server)
    labels = f'grpc_method="{{}}",grpc_service="{SERVICE}",grpc_type="{{}}"'
    handled = 'grpc_server_handled_total{{grpc_code="{}",{}}} 1.0'
    assert handled.format("OK", labels.format("Echo", "unary")) in text
    assert handled.format("INVALID_ARGUMENT", labels.format("Echo", "unary")) in text
    assert handled.format("OK", labels.format("Count", "server_stream")) in text
    assert f"grpc_server_started_total{{{labels.format('Echo', 'unary')}}} 2.0" in text
    assert f"grpc_server_handling_seconds_count{{{labels.format('Count', 'server_stream')}}} 1.0" in text
    assert "process_resident_memory_bytes" in text


PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("echo_service", sys.argv.pop(1))
echo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(echo)
from services.runtime.config import RuntimeSettings
from services.runtime.server import run
run("echo", RuntimeSettings, echo.build_app, migrations=echo.MIGRATIONS)
"""


def start_process(url: str, port_file: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the test's service as a process of its own."""
    environment = {"KLINECAST_DATABASE__URL": url, "KLINECAST_PORT_FILE": str(port_file), "PATH": os.environ["PATH"]}
    service = str(Path(__file__).parent / "conftest.py")
    command = [sys.executable, "-c", PROGRAM, service, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_process_stops_with_code_0_at_repeated_signals(empty_database_url: str, tmp_path: Path) -> None:
    with start_process(empty_database_url, tmp_path / "ports.json") as process:
        assert process.stderr is not None
        listening = next(event for line in process.stderr if (event := json.loads(line))["event"] == "listening")
        ports = json.loads((tmp_path / "ports.json").read_text())
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert listening["address"] == f"127.0.0.1:{ports['port']}"
    assert listening["metrics_port"] == ports["metrics_port"]


def test_settings_are_shown_without_a_start(tmp_path: Path) -> None:
    with start_process("postgresql://k:hunter2@db/x", tmp_path / "ports.json", "--show-settings") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "KLINECAST_LISTEN=127.0.0.1:0\n" in out
    assert "hunter2" not in out
