"""Lists by label, strategy, series, time and any statistic; pages go on where they ended whatever comes and goes."""

from __future__ import annotations

import uuid

import pytest

from klinecast.client import Client, Interval, Result, ResultFilter, SeriesKey
from klinecast.errors import InvalidArgument
from klinecast.types import MarketType
from tests.factories import HOUR_MS, START_MS
from tests.results import Replica, save

DAY_MS = 24 * HOUR_MS


def ids(results) -> list[str]:
    return [one.result_id for one in results]


@pytest.fixture
def three(client: Client) -> list[Result]:
    btc = SeriesKey("BINANCE", MarketType.SPOT, "BTCUSDT", Interval.H1)
    eth = SeriesKey("BINANCE", MarketType.LINEAR_PERPETUAL, "ETHUSDT", Interval.M1)
    return [
        save(client, strategy="rsi", series=btc, labels={"a": "1", "b": "2"}, statistics={"sharpe": 1.5}),
        save(client, strategy="macd", series=eth, labels={"a": "1"}, statistics={"sharpe": -0.5, "sortino": 2.0}),
        save(client, strategy="rsi", series=eth, start_ms=START_MS + DAY_MS, statistics={"sortino": 1.0}),
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ResultFilter(), [2, 1, 0]),
        (ResultFilter(ascending=True), [0, 1, 2]),
        (ResultFilter(strategy="rsi"), [2, 0]),
        (ResultFilter(labels={"a": "1"}), [1, 0]),
        (ResultFilter(labels={"a": "1", "b": "2"}), [0]),
        (ResultFilter(symbol="ETHUSDT"), [2, 1]),
        (ResultFilter(venue="BINANCE", interval=Interval.H1), [0]),
        (ResultFilter(symbol="BTCUSDT", interval=Interval.M1), []),
        (ResultFilter(market_type=MarketType.LINEAR_PERPETUAL), [2, 1]),
        (ResultFilter(range_from_ms=START_MS + DAY_MS), [2]),
        (ResultFilter(range_before_ms=START_MS + DAY_MS), [1, 0]),
        (ResultFilter(created_from_ms=4_000_000_000_000), []),
        (ResultFilter(created_before_ms=4_000_000_000_000), [2, 1, 0]),
        (ResultFilter(statistics={"sharpe": (0.0, None)}), [0]),
        (ResultFilter(statistics={"sharpe": (None, 1.5)}), [1, 0]),
        (ResultFilter(statistics={"sharpe": (-1.0, 2.0), "sortino": (2.0, 2.0)}), [1]),
        (ResultFilter(statistics={"final_equity": (11_000.0, None)}), [2, 1, 0]),
        (ResultFilter(order_by="sharpe"), [0, 1, 2]),
        (ResultFilter(order_by="sharpe", ascending=True), [1, 0, 2]),
        (ResultFilter(order_by="sortino"), [1, 2, 0]),
        (ResultFilter(order_by="create_time", strategy="rsi"), [2, 0]),
    ],
)
def test_filters_and_orders(client: Client, three: list[Result], wanted: ResultFilter, found: list[int]) -> None:
    assert ids(client.list_results(wanted)) == [three[index].result_id for index in found]


@pytest.mark.parametrize("order_by", ["", "sharpe"])
def test_pages_are_stable_while_rows_come_and_go(client: Client, order_by: str) -> None:
    values = {n: None if n % 5 == 0 else float(n % 7) for n in range(30)}
    saved = {n: save(client, statistics={} if v is None else {"sharpe": v}) for n, v in values.items()}
    expected = ids(client.list_results(ResultFilter(order_by=order_by)))
    seen, wanted = [], ResultFilter(order_by=order_by)
    gone = {saved[n].result_id for n in (3, 17)}
    for count, one in enumerate(pages_of(client, wanted, 4)):
        seen.append(one)
        if count == 9:
            newer = save(client, statistics={"sharpe": 100.0})
            for result_id in gone:
                client.delete_result(result_id)
    assert newer.result_id not in seen
    assert len(seen) == len(set(seen))
    assert [one for one in seen if one not in gone] == [one for one in expected if one not in gone]


@pytest.mark.parametrize("order_by", ["", "sharpe"])
def test_a_page_of_long_headers_ends_before_it_outgrows_a_message(client: Client, order_by: str) -> None:
    saved = [save(client, labels={"note": "x" * 250_000}, statistics={"sharpe": float(n // 3)}) for n in range(20)]
    expected = sorted(saved, key=lambda one: (one.statistics["sharpe"], one.result_id), reverse=True)
    found = ids(client.list_results(ResultFilter(order_by=order_by)))
    assert found == ids(expected if order_by else reversed(saved))


def pages_of(client: Client, wanted: ResultFilter, size: int):
    from klinecast.convert.retention import filter_to_proto

    request = filter_to_proto(wanted)
    request.page_size = size
    while True:
        page = client._results._caller.unary(client._results._stub.ListResults, request)
        yield from (one.header.result_id for one in page.results)
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def test_a_token_belongs_to_its_list(client: Client, replica: Replica) -> None:
    from klinecast.api.results.v1 import results_service_pb2 as pb

    save(client), save(client)
    calls = client._results
    token = calls._caller.unary(calls._stub.ListResults, pb.ListResultsRequest(page_size=1)).next_page_token
    with replica.client(tenant="another") as other:
        for caller, changed in ((calls, {"order_by": "sharpe"}), (calls, {"strategy": "x"}), (other._results, {})):
            with pytest.raises(InvalidArgument) as refused:
                caller._caller.unary(caller._stub.ListResults, pb.ListResultsRequest(page_token=token, **changed))
            assert refused.value.reason == "BAD_PAGE_TOKEN"


def test_bad_filters_name_their_field(client: Client) -> None:
    with pytest.raises(InvalidArgument) as refused:
        list(client.list_results(ResultFilter(statistics={"sharpe": (float("nan"), None), "": (1.0, None)})))
    assert [one.field for one in refused.value.violations] == ["statistics[0]", "statistics[1].name"]


def test_another_tenants_results_are_not_there(client: Client, replica: Replica) -> None:
    mine = save(client)
    with replica.client(tenant=f"t{uuid.uuid4().hex}") as other:
        assert list(other.list_results()) == []
        assert other.check_results([mine.result_id]) == ()
    assert client.check_results([str(uuid.uuid4()), mine.result_id]) == (mine.result_id,)
