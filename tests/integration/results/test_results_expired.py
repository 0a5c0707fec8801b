"""What has expired is gone to every RPC while its row is still there, and the audit says it expired."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from klinecast.client import Client, Result, RetentionPolicy
from klinecast.errors import NotFound
from services.runtime.database import libpq_url
from tests.results import make_equity, make_trades, run_replicas, save


@pytest.fixture
def client(session_home: Path, database_url: str) -> Iterator[Client]:
    """Return a client of a service that sweeps when it starts, and not again."""
    home = session_home / f"unswept-{uuid.uuid4().hex[:8]}"
    with run_replicas(home, database_url, {"KLINECAST_SWEEP_EVERY_S": "3600"}) as [replica], replica.client() as client:
        yield client


@pytest.fixture
def expire(database_url: str) -> Callable[[Result], str]:
    """Return a function that lets a result have expired a second ago; it returns its id."""

    def change(result: Result) -> str:
        with psycopg.connect(libpq_url(database_url)) as connection:
            connection.execute(
                "UPDATE results.results SET expire_time = clock_timestamp() - interval '1 second' WHERE result_id = %s",
                (result.result_id,),
            )
        return result.result_id

    return change


def test_f1_every_rpc_says_gone_before_the_row_is(client: Client, database_url: str, expire) -> None:
    kept, doomed = (save(client, equity=make_equity(50), trades=make_trades(5)) for _ in range(2))
    gone = expire(doomed)
    assert [one.result_id for one in client.list_results()] == [kept.result_id]
    assert client.check_results([gone, kept.result_id]) == (kept.result_id,)
    for call in (
        client.get_result,
        client.load_trades,
        client.load_fills,
        client.load_equity,
        lambda result_id: client.load_equity(result_id, max_points=10),
        lambda result_id: client.compare_results([kept.result_id, result_id]),
        client.render_report,
        lambda result_id: client.render_report(kept.result_id, result_id),
        lambda result_id: client.update_retention(result_id, ttl_s=3600),
        lambda result_id: client.update_retention(result_id, ttl_s=3600, extend_only=True),
        lambda result_id: client.update_retention(result_id, pinned=True),
        lambda result_id: client.update_retention(result_id, pinned=False),
    ):
        with pytest.raises(NotFound):
            call(gone)
    assert client.get_retention_usage().results == 1
    with psycopg.connect(libpq_url(database_url)) as connection:
        assert connection.execute("SELECT count(*) FROM results.results").fetchone() == (2,)
    assert not client.delete_result(gone)


def test_the_preview_tells_what_has_expired_and_what_is_pinned(client: Client, expire) -> None:
    kept, doomed, pinned = (save(client, equity=make_equity(rows)) for rows in (50, 60, 70))
    client.update_retention(pinned.result_id, pinned=True)
    expire(doomed)
    preview = client.preview_retention(RetentionPolicy(max_results=1))
    assert preview.losses == {"EXPIRED": (1, doomed.stored_bytes), "MAX_RESULTS": (1, kept.stored_bytes)}
    usage = preview.kept
    assert (usage.results, usage.bytes) == (usage.pinned_results, usage.pinned_bytes) == (1, pinned.stored_bytes)


def test_what_had_expired_is_not_called_deleted_or_replaced(client: Client, expire) -> None:
    deleted, replaced, live = (save(client, equity=make_equity(10)) for _ in range(3))
    client.delete_result(expire(deleted))
    save(client, result_id=expire(replaced), equity=make_equity(11), fence=2)
    save(client, result_id=live.result_id, equity=make_equity(11), fence=2)
    audit = {one.result_id: one.reason for one in client.list_retention_audit()}
    assert audit == {deleted.result_id: "EXPIRED", replaced.result_id: "EXPIRED"}
