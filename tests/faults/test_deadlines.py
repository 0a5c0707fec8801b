"""C16, C17: when a caller gives up, so do the query and the call that were made for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import psycopg
import pytest

from klinecast.api.backtest.v1 import backtest_service_pb2, backtest_service_pb2_grpc
from klinecast.api.data.v1 import data_service_pb2, data_service_pb2_grpc
from klinecast.backtest_config import BacktestConfig
from klinecast.convert.backtest import config_to_proto
from klinecast.convert.market import series_to_proto
from services.runtime.database import libpq_url
from tests.factories import make_config
from tests.suite import Suite

DEADLINE_S = 0.3
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
def config(suite: Suite) -> BacktestConfig:
    with suite.client() as client:
        return make_config(client)


@pytest.fixture
def locked(suite: Suite, config: BacktestConfig) -> Iterator[psycopg.Connection]:
    """Hold a lock that every read of a series waits for."""
    url = libpq_url(suite.database_url)
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as looking:
        holder.execute("LOCK TABLE data.series IN ACCESS EXCLUSIVE MODE")
        yield looking
        holder.rollback()


def seconds_until_nobody_waits(connection: psycopg.Connection) -> float:
    began = time.monotonic()
    while connection.execute(WAITING).fetchone() != (0,):
        assert time.monotonic() - began < 10
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_query_ends_with_the_deadline_of_its_call(
    suite: Suite, config: BacktestConfig, locked: psycopg.Connection
) -> None:
    request = data_service_pb2.GetSeriesRequest(series=series_to_proto(config.series))
    with grpc.insecure_channel(suite.target("data")) as channel, pytest.raises(grpc.RpcError) as raised:
        data_service_pb2_grpc.DataServiceStub(channel).GetSeries(request, timeout=DEADLINE_S)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    took = seconds_until_nobody_waits(locked)
    print(f"\nthe query was gone {took:.2f} s after the deadline")
    assert took <= 1


def test_a_call_between_services_ends_with_the_deadline_of_its_caller(
    suite: Suite, config: BacktestConfig, locked: psycopg.Connection
) -> None:
    request = backtest_service_pb2.CreateBacktestRequest(config=config_to_proto(config))
    with grpc.insecure_channel(suite.target("backtest")) as channel, pytest.raises(grpc.RpcError) as raised:
        backtest_service_pb2_grpc.BacktestServiceStub(channel).CreateBacktest(request, timeout=DEADLINE_S)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    took = seconds_until_nobody_waits(locked)
    print(f"\nthe data service's query was gone {took:.2f} s after the caller's deadline")
    assert took <= 0.5  # without propagation 1.7 s: the backtest service's own patience is 2 s
