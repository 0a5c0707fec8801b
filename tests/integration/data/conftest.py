"""The data service as deployed: its app, its migrations, a real Postgres, a real socket."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from klinecast.api.data.v1 import data_service_pb2_grpc
from services.data.app import MIGRATIONS, build_app
from services.data.settings import DataSettings
from services.runtime.config import DatabaseSettings
from services.runtime.server import RunningServer, running
from tests.integration.data.kline_driver import DataDriver


@pytest.fixture
async def data_server(database_url: str) -> AsyncIterator[RunningServer]:
    """Return the service on a free port."""
    settings = DataSettings(
        database=DatabaseSettings(url=database_url), listen="127.0.0.1:0", metrics_listen="127.0.0.1:0"
    )
    async with running("data", settings, build_app, migrations=MIGRATIONS) as server:
        await server.migrating
        yield server


@pytest.fixture
async def data(data_server: RunningServer) -> AsyncIterator[DataDriver]:
    """Return a client of it."""
    async with grpc.aio.insecure_channel(data_server.target) as channel:
        yield DataDriver(data_service_pb2_grpc.DataServiceStub(channel))


@pytest.fixture
def details():
    """Return a function that tells (code, reason, bad fields, metadata) of a failed call."""

    def read(error: grpc.aio.AioRpcError):
        raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for packed in status_pb2.Status.FromString(raw).details:
            packed.Unpack(info)
            packed.Unpack(request)
        return error.code().name, info.reason, [one.field for one in request.field_violations], dict(info.metadata)

    return read
