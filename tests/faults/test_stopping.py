"""A service that is told to stop while many watch it: they are sent elsewhere, and nothing holds it up."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import psycopg
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from klinecast.api.backtest.v1 import backtest_service_pb2, backtest_service_pb2_grpc
from services.runtime.database import libpq_url
from tests.factories import make_config
from tests.suite import Suite, run_suite

WATCHERS, CHANNELS = 200, 10
STOPPED_S = 5.0
"""Within 2 s on a machine that is not busy; a watcher that held it up would take the whole drain, 10 s."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A deployment whose backtest service was stopped, and a backtest's row right after: state, attempt, deaths."""

    suite: Suite
    backtest_id: str
    row: object


async def test_d1_d3_d5_two_hundred_watchers_are_sent_elsewhere(session_home: Path, database_url: str) -> None:
    """SIGTERM three times and SIGINT, somebody following its health: one stop, that waits for nobody."""
    with run_suite(session_home / f"stopping-{uuid.uuid4().hex[:8]}", database_url, WORKERS="0") as suite:
        with suite.client() as client:
            backtest_id = client.create_backtest(make_config(client)).backtest_id
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
        channels = [grpc.aio.insecure_channel(suite.target("backtest"), options) for _ in range(CHANNELS)]
        request = backtest_service_pb2.WatchBacktestRequest(backtest_id=backtest_id)
        stubs = [backtest_service_pb2_grpc.BacktestServiceStub(channel) for channel in channels]
        watches = [stubs[number % CHANNELS].WatchBacktest(request) for number in range(WATCHERS)]
        health = health_pb2_grpc.HealthStub(channels[0]).Watch(health_pb2.HealthCheckRequest())
        await asyncio.gather(*(one.read() for one in (*watches, health)))
        started = time.monotonic()
        code = await asyncio.to_thread(signal_repeatedly, suite)
        stopped_s = time.monotonic() - started
        reasons = await asyncio.gather(*map(reason_of_end, (*watches, health)))
        for channel in channels:
            await channel.close()
    print(f"\nstopped after {stopped_s:.2f} s")
    assert code == 0
    assert stopped_s <= STOPPED_S
    assert set(reasons) == {(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")}


@pytest.fixture
def stopped(session_home: Path, database_url: str, request: pytest.FixtureRequest) -> Iterator[Stopped]:
    """Return what became of a backtest that takes so many seconds when the service beside its worker was stopped."""
    runs_s, drain_s = request.param
    with run_suite(
        session_home / f"stopping-{uuid.uuid4().hex[:8]}", database_url, SHUTDOWN__DRAIN_SECONDS=drain_s
    ) as suite:
        with suite.client() as client:
            config = make_config(client, strategy="slow", params={"seconds": runs_s})
            backtest_id = client.create_backtest(config).backtest_id
            next(event for event in client.watch_backtest(backtest_id) if event.state == "RUNNING")
        suite.process("backtest").terminate()
        assert suite.wait_for_end("backtest") == 0
        with psycopg.connect(libpq_url(database_url)) as connection:
            query = "SELECT state, attempt, jsonb_array_length(attempts) FROM backtest.backtests"
            yield Stopped(suite, backtest_id, connection.execute(query).fetchone())


@pytest.mark.parametrize("stopped", [(3.0, "20")], indirect=True)
def test_d2_a_backtest_that_ends_within_the_drain_ends(stopped: Stopped) -> None:
    assert stopped.row == ("SUCCEEDED", 1, 0)


@pytest.mark.parametrize("stopped", [(60.0, "1")], indirect=True)
def test_d2_one_that_does_not_is_queued_at_once_and_no_attempt_is_counted(stopped: Stopped) -> None:
    assert stopped.row == ("QUEUED", 1, 0)
    stopped.suite.start("backtest")
    with stopped.suite.client() as client:
        running = next(event for event in client.watch_backtest(stopped.backtest_id) if event.attempt == 2)
        assert running.state == "RUNNING"
        client.cancel_backtest(stopped.backtest_id)
        assert list(client.watch_backtest(stopped.backtest_id))[-1].state == "CANCELLED"


def signal_repeatedly(suite: Suite) -> int:
    """Signal the backtest service again and again until it ends; return its exit code."""
    process = suite.process("backtest")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.02)
    return suite.wait_for_end("backtest")


async def reason_of_end(call: grpc.aio.UnaryStreamCall[object, object]) -> tuple[grpc.StatusCode, str]:
    """Read a stream to its end; return the status and the reason it ends with."""
    try:
        while await call.read() is not grpc.aio.EOF:
            continue
    except grpc.aio.AioRpcError as error:
        metadata = {str(key): value for key, value in error.trailing_metadata() or ()}
        info = error_details_pb2.ErrorInfo()
        Status.FromString(metadata.get("grpc-status-details-bin", b"")).details[0].Unpack(info)
        return error.code(), info.reason
    return grpc.StatusCode.OK, ""
