"""Who is let in, and for how long, seen through a service of the tests' own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.runtime.auth import Authenticator, watched
from services.runtime.auth.static_tokens import digest, new_token
from services.runtime.config import AuthSettings
from services.runtime.interceptors import auth, limit
from services.runtime.server import RunningServer
from tests.security import replace_file

SERVICE = "klinecast.test.EchoService"
CODES = grpc.StatusCode
TOKEN = new_token()
BEARER = (("authorization", f"Bearer {TOKEN}"),)
Serve = Callable[..., Any]


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that says what the token is good for, and in which file."""
    monkeypatch.setattr(watched, "CHECK_S", 0.0)
    monkeypatch.setattr(auth, "RECHECK_S", 0.01)

    def write(*roles: str, tenant: str = "acme") -> str:
        entry = {"sha256": digest(TOKEN), "subject": "x", "tenant": tenant, "roles": roles}
        replace_file(tmp_path / "tokens.json", json.dumps([entry]).encode())
        return str(tmp_path / "tokens.json")

    return write


@pytest.fixture
async def guarded(
    serve: Serve, empty_database_url: str, tokens: Callable[..., str]
) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel]]:
    """Return a server that asks for a token, and a channel to it."""
    settings = AuthSettings(tokens_file=tokens("admin"))
    async with (
        serve(empty_database_url, auth=settings, reflection=True) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        await server.runtime.migrated.wait()
        yield server, channel


async def open_stubborn(channel: grpc.aio.Channel) -> Any:
    """Open a stream that wants the role admin and never ends."""
    stream = channel.unary_stream(f"/{SERVICE}/Stubborn")(b"", metadata=BEARER)
    await stream.read()
    return stream


async def code_of_end(stream: Any) -> grpc.StatusCode:
    """Return the code with which a stream ends, within five seconds."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(stream.read(), 5)
    return raised.value.code()


@pytest.mark.parametrize(
    ("roles", "tenant", "code"),
    [(["user"], "acme", CODES.PERMISSION_DENIED), (["admin"], "other", CODES.UNAUTHENTICATED)],
)
async def test_a_stream_ends_with_its_role_and_its_tenant(
    guarded: tuple[RunningServer, grpc.aio.Channel],
    tokens: Callable[..., str],
    roles: list[str],
    tenant: str,
    code: grpc.StatusCode,
) -> None:
    stream = await open_stubborn(guarded[1])
    tokens(*roles, tenant=tenant)
    assert await code_of_end(stream) is code


async def test_a_stream_that_cannot_be_checked_ends(
    guarded: tuple[RunningServer, grpc.aio.Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("planted")

    stream = await open_stubborn(guarded[1])
    monkeypatch.setattr(Authenticator, "check", fail)
    assert await code_of_end(stream) is CODES.INTERNAL


async def test_a_method_of_no_table_is_for_nobody(guarded: tuple[RunningServer, grpc.aio.Channel]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await guarded[1].unary_unary(f"/{SERVICE}/Query")(b"", metadata=BEARER, timeout=5)
    assert raised.value.code() is CODES.PERMISSION_DENIED


@pytest.mark.parametrize(("metadata", "answers"), [(BEARER, True), ((), False)])
async def test_reflection_wants_a_token_too(
    guarded: tuple[RunningServer, grpc.aio.Channel], metadata: Any, answers: bool
) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(guarded[1])
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=metadata, timeout=5
    )
    if answers:
        assert SERVICE in str(await call.read())
    else:
        assert await code_of_end(call) is CODES.UNAUTHENTICATED


async def test_a_tenants_own_streams_leave_room_for_the_services_that_act_for_it(
    guarded: tuple[RunningServer, grpc.aio.Channel], tokens: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "TENANT_STREAMS", 2)
    own = [await open_stubborn(guarded[1]) for _ in range(2)]
    with pytest.raises(grpc.aio.AioRpcError, match="too many calls"):
        await open_stubborn(guarded[1])
    tokens("admin", "service")
    services = [await open_stubborn(guarded[1]) for _ in range(3)]
    for stream in (*own, *services):
        stream.cancel()
