"""What one tenant may have in flight, over real sockets, and that another does not notice."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.config import LimitSettings
from services.runtime.server import RunningServer

SERVICE = "klinecast.test.EchoService"
Serve = Callable[..., Any]


def as_tenant(name: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a tenant."""
    return (("klinecast-tenant", name),)


def unary(channel: grpc.aio.Channel, name: str, tenant: str) -> Any:
    """Call a unary RPC as a tenant."""
    call = channel.unary_unary(f"/{SERVICE}/{name}", None, StringValue.FromString)
    return call(StringValue(value="w").SerializeToString(), metadata=as_tenant(tenant))


def watch(channel: grpc.aio.Channel, tenant: str) -> Any:
    """Open an endless stream as a tenant."""
    return channel.unary_stream(f"/{SERVICE}/Watch", None, StringValue.FromString)(b"", metadata=as_tenant(tenant))


async def until_running(server: RunningServer, count: int) -> None:
    """Wait until so many calls of Sleep have begun."""
    labels = {"grpc_method": "Sleep", "grpc_service": SERVICE, "grpc_type": "unary"}
    async with asyncio.timeout(5):
        while server.runtime.metrics.get_sample_value("grpc_server_running", labels) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def refusal(call: Any) -> tuple[error_details_pb2.QuotaFailure, error_details_pb2.RetryInfo]:
    """Return the details of a call that is refused for a limit."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    packed = Status.FromString(dict(raised.value.trailing_metadata())["grpc-status-details-bin"]).details
    details = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert all(one.Unpack(into) for one, into in zip(packed, details, strict=True))
    assert details[0].reason == "LIMIT_EXCEEDED"
    return details[1:]


async def test_a_tenant_over_its_streams_is_refused_and_no_other(serve: Serve, empty_database_url: str) -> None:
    limits = LimitSettings(tenant_max_streams=3)
    async with serve(empty_database_url, limits=limits) as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.runtime.migrated.wait()
        watches = [watch(channel, "greedy") for _ in range(3)]
        for one in watches:
            await one.read()
        quota, retry = await refusal(watch(channel, "greedy").read())
        assert quota.violations[0].subject == "tenant:greedy"
        assert "3 streams" in quota.violations[0].description
        assert retry.retry_delay.ToMilliseconds() == 500
        assert (await watch(channel, "modest").read()).value == "first"
        assert (await unary(channel, "Echo", "greedy")).value == "greedy:w"
        watches[0].cancel()
        async with asyncio.timeout(5):
            while not await is_open(watch(channel, "greedy")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def is_open(call: Any) -> bool:
    """Tell whether a stream sends something."""
    try:
        return await call.read() is not grpc.aio.EOF
    except grpc.aio.AioRpcError:
        return False


async def test_a_tenant_over_its_calls_is_refused_and_health_never(serve: Serve, empty_database_url: str) -> None:
    limits = LimitSettings(tenant_max_rpcs=4, tenant_running_rpcs=2)
    async with serve(empty_database_url, limits=limits) as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.runtime.migrated.wait()
        sleeping = [unary(channel, "Sleep", "greedy") for _ in range(4)]
        await until_running(server, 4)
        quota, _ = await refusal(unary(channel, "Echo", "greedy"))
        assert quota.violations[0].subject == "tenant:greedy"
        assert (await unary(channel, "Echo", "modest")).value == "modest:w"
        health = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="liveness"), metadata=as_tenant("greedy")
        )
        assert (await health).status == health_pb2.HealthCheckResponse.SERVING
        for one in sleeping:
            one.cancel()


async def test_calls_run_in_turns(serve: Serve, empty_database_url: str) -> None:
    limits = LimitSettings(tenant_running_rpcs=2)
    async with serve(empty_database_url, limits=limits) as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.runtime.migrated.wait()
        sleeping = [unary(channel, "Sleep", "a") for _ in range(2)]
        await until_running(server, 2)
        waiting = unary(channel, "Echo", "a")
        assert (await unary(channel, "Echo", "b")).value == "b:w"
        sleeping[0].cancel()
        assert (await waiting).value == "a:w"
        sleeping[1].cancel()


async def test_a_call_passes_those_of_another_tenant_that_wait(serve: Serve, empty_database_url: str) -> None:
    limits = LimitSettings(tenant_running_rpcs=2)
    async with serve(empty_database_url, limits=limits) as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.runtime.migrated.wait()
        ended = 0

        async def flood() -> None:
            nonlocal ended
            await unary(channel, "Word", "greedy")
            ended += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(flood())
            await asyncio.sleep(0)  # they are on their way before the victim is
            await unary(channel, "Word", "modest")
            assert ended < 50


async def test_a_refusal_is_counted_and_costs_no_line_each(
    serve: Serve, empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = LimitSettings(tenant_max_streams=1)
    async with serve(empty_database_url, limits=limits) as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.runtime.migrated.wait()
        held = watch(channel, "greedy")
        await held.read()
        began = time.monotonic()
        for _ in range(50):
            await refusal(watch(channel, "greedy").read())
        assert time.monotonic() - began < 1
        labels = {"grpc_code": "RESOURCE_EXHAUSTED", "grpc_method": "Watch", "grpc_service": SERVICE}
        count = server.runtime.metrics.get_sample_value(
            "grpc_server_handled_total", labels | {"grpc_type": "server_stream"}
        )
        assert count == 50
        held.cancel()
    assert 1 <= capsys.readouterr().out.count("calls_refused") <= 2
