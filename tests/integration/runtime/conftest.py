"""A service of the tests' own, small enough to see the server through it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
import pytest
import sqlalchemy as sa
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import SecretStr

from klinecast.errors import FieldViolation, InvalidArgument
from services.runtime.app import Runtime
from services.runtime.auth.credential import ADMIN, READ
from services.runtime.config import DatabaseSettings, RuntimeSettings, ShutdownSettings
from services.runtime.migrations import Migrations
from services.runtime.server import RunningServer, running
from services.runtime.tenancy import current_tenant

SERVICE = "klinecast.test.EchoService"
MIGRATIONS = Migrations(schema="echo", script_location=Path(__file__).parent / "echo_migrations")
METHODS = ("Echo", "Fail", "CancelWithin", "WrongAnswer", "Sleep", "Word", "Count", "Watch", "Stubborn", "Join")
Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]


def _describe() -> None:
    """Tell the descriptor pool of the service, as generated code does."""
    text = ".google.protobuf.StringValue"
    file = descriptor_pb2.FileDescriptorProto(
        name="klinecast/test/echo.proto", package="klinecast.test", dependency=["google/protobuf/wrappers.proto"]
    )
    service = file.service.add(name="EchoService")
    for name in METHODS:
        service.method.add(name=name, input_type=text, output_type=text)
    descriptor_pool.Default().Add(file)


_describe()


class EchoApp:
    """Each RPC shows one behaviour of the server; Query is served, but neither described nor in the table."""

    access = MappingProxyType({SERVICE: {**dict.fromkeys(METHODS, READ), "Word": ADMIN, "Stubborn": ADMIN}})

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def register(self, server: grpc.aio.Server) -> None:
        """Add the handlers."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        upload = grpc.stream_unary_rpc_method_handler
        codec = (StringValue.FromString, StringValue.SerializeToString)
        handlers = {
            "Echo": unary(self.echo, *codec),
            "Fail": unary(self.fail, *codec),
            "CancelWithin": unary(self.cancel_within, *codec),
            "WrongAnswer": unary(self.wrong_answer, *codec),
            "Sleep": unary(self.sleep, *codec),
            "Word": unary(self.word, *codec),
            "Query": unary(self.query, *codec),
            "Count": stream(self.count, *codec),
            "Watch": stream(self.watch, *codec),
            "Stubborn": stream(self.stubborn, *codec),
            "Join": upload(self.join, *codec),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def ready(self) -> bool:
        """Nothing but the database is needed."""
        return True

    async def echo(self, request: StringValue, context: Any) -> StringValue:
        """Answer with the tenant and the word."""
        if not request.value:
            raise InvalidArgument.of(FieldViolation("value", "is empty"))
        return StringValue(value=f"{current_tenant.get()}:{request.value}")

    async def fail(self, request: StringValue, context: Any) -> StringValue:
        """Break with a text that must not leave the server."""
        raise ValueError("postgresql://klinecast:hunter2@db/klinecast")

    async def cancel_within(self, request: StringValue, context: Any) -> StringValue:
        """Await something that somebody else cancelled."""
        future: asyncio.Future[StringValue] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async def wrong_answer(self, request: StringValue, context: Any) -> Message:
        """Answer with what cannot be serialized."""
        return "no message"  # type: ignore[return-value]

    async def sleep(self, request: StringValue, context: Any) -> StringValue:
        """Never answer."""
        await asyncio.Event().wait()
        return request

    async def word(self, request: StringValue, context: Any) -> StringValue:
        """Read the table that the migration made."""
        async with self.runtime.database.connect() as connection:
            word = (await connection.execute(sa.text("SELECT word FROM echo.words"))).scalar_one()
        return StringValue(value=word)

    async def query(self, request: StringValue, context: Any) -> StringValue:
        """Ask the database for what takes it a minute."""
        async with self.runtime.database.connect() as connection:
            await connection.execute(sa.text("SELECT pg_sleep(60)"))
        return request

    async def count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        """Send three words, then fail when asked to."""
        for number in range(3):
            yield StringValue(value=str(number))
        if request.value:
            raise KeyError(request.value)

    async def watch(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        """Send one word, then wait for the shutdown."""
        yield StringValue(value="first")
        await self.runtime.shutdown.wait()
        self.runtime.check_running()

    async def stubborn(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        """Send one word, then never end."""
        yield StringValue(value="first")
        await asyncio.Event().wait()

    async def join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        """Join the words sent."""
        return StringValue(value=" ".join([request.value async for request in requests]))


@asynccontextmanager
async def build_app(settings: RuntimeSettings, runtime: Runtime) -> AsyncIterator[EchoApp]:
    """Open the service."""
    yield EchoApp(runtime)


def make_settings(url: str, **changes: Any) -> RuntimeSettings:
    """Return settings for a server on a free port that stops quickly."""
    changes.setdefault("shutdown", ShutdownSettings(drain_seconds=2))
    return RuntimeSettings(database=DatabaseSettings(url=SecretStr(url)), **changes)


@pytest.fixture
def serve() -> Serve:
    """Return a function that runs the service against a database: `async with serve(url) as server`."""

    def start(url: str, **changes: Any) -> AbstractAsyncContextManager[RunningServer]:
        return running("echo", make_settings(url, **changes), build_app, migrations=MIGRATIONS)

    return start


@pytest.fixture
async def server(serve: Serve, empty_database_url: str) -> AsyncIterator[RunningServer]:
    """Return a running server whose tables are there."""
    async with serve(empty_database_url) as server:
        await server.runtime.migrated.wait()
        yield server


@pytest.fixture
async def channel(server: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to the running server."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield channel


Call = Callable[..., Any]


@pytest.fixture
def call(channel: grpc.aio.Channel) -> Call:
    """Return a function that calls a unary RPC by name: `await call("Echo", "word")`."""
    return lambda name, value="", **options: unary(channel, name)(StringValue(value=value), **options)


def unary(channel: grpc.aio.Channel, name: str) -> Any:
    """Return the multicallable of a unary RPC."""
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )


@pytest.fixture
def stream(channel: grpc.aio.Channel) -> Call:
    """Return a function that opens a server stream by name: `stream("Count")`."""
    return lambda name, value="": channel.unary_stream(
        f"/{SERVICE}/{name}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )(StringValue(value=value))
