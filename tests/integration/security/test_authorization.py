"""Every RPC of every service against every kind of caller; the list of RPCs is taken from the descriptors."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

import klinecast.api
from klinecast.api.backtest.v1 import backtest_service_pb2 as backtest_pb
from klinecast.api.data.v1 import data_service_pb2 as data_pb
from klinecast.api.market.v1.series_pb2 import MARKET_TYPE_SPOT
from klinecast.api.results.v1 import results_service_pb2 as results_pb
from klinecast.api.results.v1 import retention_pb2
from klinecast.client import Client
from klinecast.client._results import _save_requests
from klinecast.convert.backtest import config_to_proto
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from services.backtest.access import ACCESS as BACKTEST
from services.data.access import ACCESS as DATA
from services.results.access import ACCESS as RESULTS
from services.runtime.auth import Role
from tests.factories import HOUR_MS, START_MS, make_config
from tests.results import make_equity, make_header, make_trades, save
from tests.security import Secured
from tests.suite import Suite

DEPLOYED = ("data", "backtest", "results")
SERVICES: list[ServiceDescriptor] = [
    service
    for module in pkgutil.walk_packages(klinecast.api.__path__, "klinecast.api.")
    if module.name.endswith("_pb2")
    for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values()
]
METHODS: dict[str, MethodDescriptor] = {method.name: method for service in SERVICES for method in service.methods}
ACCESS = {**DATA, **BACKTEST, **RESULTS}
OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@dataclass(frozen=True)
class Things:
    """What tenant A has."""

    config: Message
    series: Message
    backtest_id: str
    result_id: str
    other_result_id: str
    new_result: Callable[[], str]

    def range(self) -> dict[str, Message]:
        return {
            "series": self.series,
            "start_time": timestamp_to_proto(START_MS),
            "end_time": timestamp_to_proto(START_MS + HOUR_MS * 100),
        }


@dataclass(frozen=True)
class Row:
    """What is sent, and what tenant B gets for it where A gets OK."""

    send: Callable[[Things], Sequence[Message]]
    other: grpc.StatusCode
    tells: Callable[[Message], object] | None = None
    """Of a list: what B may not see, and so is empty."""


def one(message: type[Message], *fields: str, **given: object) -> Callable[[Things], Sequence[Message]]:
    return lambda things: [message(**{name: getattr(things, name) for name in fields}, **given)]


def ranged(message: type[Message]) -> Callable[[Things], Sequence[Message]]:
    return lambda things: [message(**things.range())]


def saved(things: Things) -> Sequence[Message]:
    return list(_save_requests(make_header(), {"trades": None, "fills": None, "equity": None}, 1, None))


def pair(message: type[Message]) -> Callable[[Things], Sequence[Message]]:
    return lambda things: [message(result_ids=[things.result_id, things.other_result_id])]


ROWS = {
    "IngestKlines": Row(one(data_pb.IngestKlinesRequest, "series"), OK),
    "IngestIndicators": Row(lambda things: [indicator_request(things)], OK),
    "DeleteKlines": Row(
        lambda things: [
            data_pb.DeleteKlinesRequest(
                series=things.series,
                start_time=timestamp_to_proto(START_MS + HOUR_MS * 10_000),
                end_time=timestamp_to_proto(START_MS + HOUR_MS * 10_001),
            )
        ],
        OK,
    ),
    "StreamKlines": Row(ranged(data_pb.StreamKlinesRequest), OK),
    "StreamIndicators": Row(
        lambda things: [
            data_pb.StreamIndicatorsRequest(
                **things.range(), indicators=[data_pb.StreamIndicatorsRequest().indicators.add(name="SMA")]
            )
        ],
        OK,
    ),
    "ListIndicatorSeries": Row(one(data_pb.ListIndicatorSeriesRequest), OK),
    "ListSeries": Row(one(data_pb.ListSeriesRequest), OK),
    "GetSeries": Row(one(data_pb.GetSeriesRequest, "series"), OK),
    "GetRange": Row(ranged(data_pb.GetRangeRequest), OK),
    "ListGaps": Row(ranged(data_pb.ListGapsRequest), OK),
    "CheckSeries": Row(ranged(data_pb.CheckSeriesRequest), OK),
    "CreateBacktest": Row(one(backtest_pb.CreateBacktestRequest, "config"), OK),
    "RunBacktest": Row(one(backtest_pb.RunBacktestRequest, "config"), OK),
    "WatchBacktest": Row(one(backtest_pb.WatchBacktestRequest, "backtest_id"), NOT_FOUND),
    "GetBacktest": Row(one(backtest_pb.GetBacktestRequest, "backtest_id"), NOT_FOUND),
    "ListBacktests": Row(one(backtest_pb.ListBacktestsRequest), OK, lambda found: found.backtests),
    "CancelBacktest": Row(one(backtest_pb.CancelBacktestRequest, "backtest_id"), NOT_FOUND),
    "ListStrategies": Row(one(backtest_pb.ListStrategiesRequest), OK),
    "SaveResult": Row(saved, OK),
    "GetResult": Row(one(results_pb.GetResultRequest, "result_id"), NOT_FOUND),
    "ListResults": Row(one(results_pb.ListResultsRequest), OK, lambda found: found.results),
    "CheckResults": Row(pair(results_pb.CheckResultsRequest), OK, lambda found: found.result_ids),
    "CompareResults": Row(pair(results_pb.CompareResultsRequest), NOT_FOUND),
    "RenderReport": Row(pair(results_pb.RenderReportRequest), NOT_FOUND),
    "StreamTrades": Row(one(results_pb.StreamTradesRequest, "result_id"), NOT_FOUND),
    "StreamFills": Row(one(results_pb.StreamFillsRequest, "result_id"), NOT_FOUND),
    "StreamEquity": Row(one(results_pb.StreamEquityRequest, "result_id"), NOT_FOUND),
    "UpdateRetention": Row(one(results_pb.UpdateRetentionRequest, "result_id", pinned=False), NOT_FOUND),
    "DeleteResult": Row(
        lambda things: [results_pb.DeleteResultRequest(result_id=things.new_result())], OK, lambda found: found.deleted
    ),
    "GetRetentionPolicy": Row(
        one(results_pb.GetRetentionPolicyRequest), OK, lambda found: found.usage.results or found.usage.bytes
    ),
    "SetRetentionPolicy": Row(one(results_pb.SetRetentionPolicyRequest, policy=retention_pb2.RetentionPolicy()), OK),
    "PreviewRetention": Row(one(results_pb.PreviewRetentionRequest), OK, lambda found: found.kept.results),
    "ListRetentionAudit": Row(one(results_pb.ListRetentionAuditRequest), OK, lambda found: found.records),
}


def indicator_request(things: Things) -> Message:
    request = data_pb.IngestIndicatorsRequest()
    request.series.venue, request.series.symbol, request.series.name = "TEST", "BTCUSDT", "funding"
    request.series.market_type = MARKET_TYPE_SPOT
    return request


@pytest.fixture(scope="module")
def channels(secured_suite: Suite, secured: Secured) -> Iterator[dict[str, grpc.Channel]]:
    credentials = grpc.ssl_channel_credentials(secured.authority.ca_file.read_bytes())
    opened = {name: grpc.secure_channel(secured_suite.target(name), credentials) for name in DEPLOYED}
    yield opened
    for channel in opened.values():
        channel.close()


@pytest.fixture(scope="module")
def things(secured_suite: Suite, secured: Secured) -> Iterator[Things]:
    def client(*roles: str) -> Client:
        return secured_suite.client(security=secured.security(secured.provider.token("a", *roles)), tenant="a")

    with client("user", "ingest") as user, client("service") as service:
        config = make_config(user)
        backtest = list(user.run_backtest(config))[-1]
        yield Things(
            config=config_to_proto(dataclasses.replace(config, allow_reuse=False)),
            series=series_to_proto(config.series[0] if isinstance(config.series, tuple) else config.series),
            backtest_id=backtest.backtest_id,
            result_id=str(backtest.result_id),
            other_result_id=save(service, trades=make_trades(10), equity=make_equity(10)).result_id,
            new_result=lambda: save(service).result_id,
        )


def call(channels: dict[str, grpc.Channel], name: str, requests: Sequence[Message], metadata: object) -> tuple:
    """Make a call of any shape; return its status, its text and its first message."""
    method = METHODS[name]
    service = method.containing_service.full_name.split(".")[2]  # klinecast.api.data.v1.DataService
    shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    request_class = message_factory.GetMessageClass(method.input_type)
    response_class = message_factory.GetMessageClass(method.output_type)
    multi = getattr(channels[service], shape)(
        f"/{method.containing_service.full_name}/{name}", request_class.SerializeToString, response_class.FromString
    )
    try:
        sent = iter(requests) if method.client_streaming else requests[0]
        answer = multi(sent, metadata=metadata, timeout=20)
        return (OK, "", next(iter(list(answer)), None) if method.server_streaming else answer)
    except grpc.RpcError as error:
        return (error.code(), error.details(), None)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_every_rpc_has_a_row_here_and_in_the_services() -> None:
    assert set(METHODS) == set(ROWS) == set(ACCESS)
    assert len(METHODS) == sum(len(service.methods) for service in SERVICES)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_h1_h3_nobody_is_let_in_without_a_token_that_holds(
    channels: dict[str, grpc.Channel], secured: Secured, name: str
) -> None:
    make = secured.provider.token
    empty = [message_factory.GetMessageClass(METHODS[name].input_type)()]
    for metadata in (
        (),
        bearer(make("a", *Role, expires_s=-60)),
        bearer(make("a", *Role, said={"aud": "another"})),
        bearer(make("a", *Role, said={"iss": "https://another.example"})),
    ):
        assert call(channels, name, empty, metadata)[0] is UNAUTHENTICATED


@pytest.mark.parametrize("name", sorted(METHODS))
def test_only_the_roles_of_the_table_may(
    channels: dict[str, grpc.Channel], secured: Secured, name: str, things: Things
) -> None:
    for role in Role:
        metadata = (*bearer(secured.provider.token("a", role)), ("klinecast-tenant", "a"))
        code, text, _ = call(channels, name, ROWS[name].send(things), metadata)
        assert code is (OK if role in ACCESS[name] else PERMISSION_DENIED), (role, text)
    assert call(channels, name, ROWS[name].send(things), bearer(secured.provider.token("a")))[0] is PERMISSION_DENIED


@pytest.mark.parametrize("name", sorted(METHODS))
def test_h5_h7_another_tenants_is_as_if_it_were_not(
    channels: dict[str, grpc.Channel], secured: Secured, name: str, things: Things
) -> None:
    tenant = f"b-{uuid.uuid4().hex[:8]}"
    metadata = (*bearer(secured.provider.token(tenant, *Role)),)
    requests = ROWS[name].send(things)
    code, text, answer = call(channels, name, requests, metadata)
    assert code is ROWS[name].other, text
    tells = ROWS[name].tells
    if tells is not None:
        assert not tells(answer)
    if code is NOT_FOUND:
        nowhere = dataclasses.replace(
            things,
            backtest_id=str(uuid.uuid4()),
            result_id=str(uuid.uuid4()),
            other_result_id=str(uuid.uuid4()),
            new_result=lambda: str(uuid.uuid4()),
        )
        absent = call(channels, name, ROWS[name].send(nowhere), metadata)
        assert (absent[0], _without_ids(absent[1])) == (NOT_FOUND, _without_ids(text))


def _without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)


def test_h5_nothing_of_the_matrix_changed_what_is_anothers(
    channels: dict[str, grpc.Channel], secured: Secured, things: Things
) -> None:
    request = results_pb.GetResultRequest(result_id=things.result_id)
    before = call(channels, "GetResult", [request], bearer(secured.provider.token("a", "user")))[2]
    stranger = bearer(secured.provider.token("stranger", "user"))
    for name in ("UpdateRetention", "CancelBacktest"):
        assert call(channels, name, ROWS[name].send(things), stranger)[0] is NOT_FOUND
    after = call(channels, "GetResult", [request], bearer(secured.provider.token("a", "user")))[2]
    assert after.result == before.result


def test_h6_a_guessed_request_id_finds_nothing(
    channels: dict[str, grpc.Channel], secured: Secured, things: Things
) -> None:
    request = backtest_pb.CreateBacktestRequest(request_id=uuid.uuid4().hex, config=things.config)
    with ThreadPoolExecutor(4) as pool:
        tokens = [bearer(secured.provider.token(tenant, "user")) for tenant in ("a", "a", "guesser", "guesser")]
        answers = list(pool.map(lambda token: call(channels, "CreateBacktest", [request], token), tokens))
    assert {code for code, _, _ in answers} == {OK}
    ids = [answer.backtest.backtest_id for _, _, answer in answers]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_only_a_service_acts_for_another_tenant(
    channels: dict[str, grpc.Channel], secured: Secured, things: Things
) -> None:
    for roles, expected in ((("user", "admin", "ingest"), PERMISSION_DENIED), (("service",), OK)):
        metadata = (*bearer(secured.provider.token("b", *roles)), ("klinecast-tenant", "a"))
        request = results_pb.GetResultRequest(result_id=things.result_id)
        assert call(channels, "GetResult", [request], metadata)[0] is expected
