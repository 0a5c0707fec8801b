"""Results are read thinned, side by side and as a report; the cache never shows what is gone or another tenant's."""

from __future__ import annotations

import re
import uuid

import numpy as np
import psycopg
import pytest

from klinecast.client import Client
from klinecast.errors import InvalidArgument, NotFound
from tests.results import Replica, make_equity, make_trades, save


def test_equity_is_thinned_with_its_peaks_and_troughs(client: Client) -> None:
    equity = make_equity(50_000)
    result_id = save(client, equity=equity).result_id
    found = client.load_equity(result_id, max_points=500)
    assert 250 <= len(found["equity"]) <= 500
    assert (found["equity"].min(), found["equity"].max()) == (equity["equity"].min(), equity["equity"].max())
    for points in (9, 100_001):
        with pytest.raises(InvalidArgument) as refused:
            client.load_equity(result_id, max_points=points)
        assert refused.value.violations[0].field == "max_points"


def test_a_result_without_equity_has_no_points(client: Client) -> None:
    result_id = save(client).result_id
    assert len(client.load_equity(result_id, max_points=100)["equity"]) == 0
    assert len(client.load_equity(result_id)["equity"]) == 0


def test_results_side_by_side(client: Client) -> None:
    first = save(client, params={"fast": 10, "slow": 30}, statistics={"sharpe": 1.0, "sortino": 2.0})
    second = save(client, params={"fast": 12, "slow": 30}, statistics={"sharpe": 0.5})
    found = client.compare_results([second.result_id, first.result_id])
    assert [one.result_id for one in found.results] == [second.result_id, first.result_id]
    assert found.statistics == {"sharpe": (0.5, 1.0), "sortino": (None, 2.0)}
    assert found.differences == {"config.params.fast": ("12", "10")}


@pytest.mark.parametrize("count", [0, 1, 9])
def test_so_many_cannot_be_compared(client: Client, count: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        client.compare_results([str(uuid.uuid4()) for _ in range(count)])
    assert refused.value.violations[0].field == "result_ids"


def test_one_that_is_gone_is_named(client: Client, replica: Replica) -> None:
    mine = save(client)
    with replica.client(tenant="other") as other:
        theirs = save(other)
    for call in (client.compare_results, lambda ids: client.render_report(*ids)):
        with pytest.raises(NotFound, match=theirs.result_id):
            call([mine.result_id, theirs.result_id])


def test_reports_are_pages_without_network(client: Client) -> None:
    results = [
        save(client, equity=make_equity(2_000, seed=n), trades=make_trades(300, seed=n), params={"fast": n})
        for n in (1, 2)
    ]
    ids = [one.result_id for one in results]
    alone, compared = client.render_report(ids[0]), client.render_report(*ids)
    for page in (alone, compared):
        assert page.startswith("<!doctype html>")
        assert "default-src 'none'" in page
        assert not re.findall(r"(?:src|href)\s*=\s*[\"']?https?:", page)
    assert ids[0] in alone
    assert "params.fast" in compared


def test_f10_the_cache_asks_before_every_hit(client: Client, replica: Replica, database: psycopg.Connection) -> None:
    equity = make_equity(5_000)
    result_id = save(client, equity=equity).result_id
    for _ in range(2):
        np.testing.assert_array_equal(client.load_equity(result_id)["equity"], equity["equity"])  # now in memory
    with replica.client(tenant="somebody") as other, pytest.raises(NotFound):
        other.load_equity(result_id)
    expire = "UPDATE results.results SET expire_time = clock_timestamp() + %s::interval WHERE result_id = %s"
    database.execute(expire, ("-1 second", result_id))  # swept or not: test_f1 is of what is not
    with pytest.raises(NotFound):
        client.load_equity(result_id)
    again = save(client, equity=equity).result_id
    client.load_equity(again)
    client.delete_result(again)
    with pytest.raises(NotFound):
        client.load_equity(again)
