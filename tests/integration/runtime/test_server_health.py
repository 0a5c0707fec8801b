"""Health is for everybody, so nobody can make it keep much."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime import health
from services.runtime.server import RunningServer
from tests.faults.abuse.wire import ForeignClient, message

CODES = grpc.StatusCode
Serve = Callable[..., Any]


def ask(channel: grpc.aio.Channel, rpc: str, name: str = "") -> Any:
    """Call a method of the health service."""
    call = getattr(health_pb2_grpc.HealthStub(channel), rpc)(health_pb2.HealthCheckRequest(service=name))
    return call if rpc == "Check" else call.read()


async def status_of(answer: Any) -> object:
    """Return the health of an answer, or the code of a refusal."""
    try:
        return health_pb2.HealthCheckResponse.ServingStatus.Name((await answer).status)
    except grpc.aio.AioRpcError as error:
        return error.code()


@pytest.mark.parametrize(
    ("rpc", "absent"),
    [("Check", CODES.NOT_FOUND), ("Watch", "SERVICE_UNKNOWN")],
)
async def test_names_that_are_none_are_told_so_and_long_ones_refused(
    channel: grpc.aio.Channel, rpc: str, absent: object
) -> None:
    assert await status_of(ask(channel, rpc, "liveness")) == "SERVING"
    assert await status_of(ask(channel, rpc, "no.such.Service")) == absent
    assert await status_of(ask(channel, rpc, "x" * 300)) is CODES.INVALID_ARGUMENT
    assert await status_of(ask(channel, rpc, "x" * 4_000_000)) is CODES.INVALID_ARGUMENT


async def test_fields_that_nobody_knows_count(server: RunningServer) -> None:
    padding = b"\xfa\x01" + b"\xac\x02" + bytes(300)  # field 31 with 300 bytes
    for rpc in ("Check", "Watch"):
        assert await asyncio.to_thread(status_on_wire, server, rpc, message(padding)) == "3"


async def test_a_request_that_does_not_come_is_not_waited_for(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "RECEIVE_S", 0.1)
    for rpc in ("Check", "Watch"):
        claim = message(b"\x0a", length=4_000_000)
        assert await asyncio.to_thread(status_on_wire, server, rpc, claim, ends=False) == "4"


def status_on_wire(server: RunningServer, rpc: str, body: bytes, **options: Any) -> str:
    """Return the status of a call that no gRPC client would make."""
    with ForeignClient(server.target) as client:
        return client.call(f"/grpc.health.v1.Health/{rpc}", body, **options).status


async def test_watches_are_few_and_checks_go_on(channel: grpc.aio.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch
    watches = [watch(health_pb2.HealthCheckRequest()) for _ in range(health.MOST_WATCHES)]
    for one in watches:
        await one.read()
    assert await status_of(ask(channel, "Watch")) is CODES.RESOURCE_EXHAUSTED
    assert await status_of(ask(channel, "Check", "liveness")) == "SERVING"
    watches[0].cancel()
    async with asyncio.timeout(5):
        while await status_of(ask(channel, "Watch", "liveness")) != "SERVING":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_server_for_probes_takes_probes_only(serve: Serve, empty_database_url: str, tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    async with serve(empty_database_url, health_listen="127.0.0.1:0", port_file=str(ports)):
        target = f"127.0.0.1:{json.loads(ports.read_text())['health_port']}"
        async with grpc.aio.insecure_channel(target) as channel:
            assert await status_of(ask(channel, "Check", "liveness")) == "SERVING"
            assert await status_of(ask(channel, "Watch", "liveness")) == "SERVING"
            assert await status_of(ask(channel, "Check", "x" * 300)) is CODES.INVALID_ARGUMENT
            assert await status_of(ask(channel, "Check", "x" * 2_000)) is CODES.RESOURCE_EXHAUSTED
