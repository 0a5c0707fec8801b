"""Retention is a policy: bounds of TTLs, limits of count and bytes, pins, a preview that tells the truth, an audit."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from klinecast.client import Client, Result, RetentionPolicy
from klinecast.errors import InvalidArgument, NotFound, ResourceExhausted
from tests.results import Replica, make_equity, run_replicas, save, wait_until

DAY_S = 86_400.0


@pytest.fixture
def backdate(database: psycopg.Connection) -> Callable[[Result, int], None]:
    """Return a function that says a result was last read so many minutes ago."""

    def change(result: Result, minutes: int) -> None:
        database.execute(
            "UPDATE results.results SET last_read_time = clock_timestamp() - make_interval(mins => %s) "
            "WHERE result_id = %s",
            (minutes, result.result_id),
        )

    return change


def lifetime_s(result: Result) -> float:
    assert result.expire_time_ms is not None
    return (result.expire_time_ms - result.create_time_ms) / 1000


def kept(client: Client, results: list[Result]) -> list[Result]:
    found = client.check_results([one.result_id for one in results])
    return [one for one in results if one.result_id in found]


def test_without_a_policy_the_service_has_one(client: Client) -> None:
    assert client.get_retention_policy() == RetentionPolicy(
        default_ttl_s=30 * DAY_S, min_ttl_s=1.0, max_ttl_s=3660 * DAY_S
    )
    assert lifetime_s(save(client)) == 30 * DAY_S


def test_ttls_follow_the_policy_of_the_tenant(client: Client, replica: Replica) -> None:
    client.set_retention_policy(RetentionPolicy(default_ttl_s=7200, min_ttl_s=3600, max_ttl_s=DAY_S))
    assert lifetime_s(save(client)) == 7200
    assert lifetime_s(save(client, ttl_s=60)) == 3600  # a computed result is not refused for its TTL
    assert lifetime_s(save(client, ttl_s=10 * DAY_S)) == DAY_S
    result = save(client, ttl_s=7200)
    for ttl_s in (3599, DAY_S + 1):
        with pytest.raises(InvalidArgument) as refused:
            client.update_retention(result.result_id, ttl_s=ttl_s)
        assert refused.value.violations[0].field == "ttl"
    with replica.client(tenant="somebody-else") as other:
        assert lifetime_s(save(other)) == 30 * DAY_S


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (RetentionPolicy(default_ttl_s=0.5), "policy.default_ttl"),
        (RetentionPolicy(min_ttl_s=100, max_ttl_s=50), "policy.min_ttl"),
        (RetentionPolicy(default_ttl_s=100, max_ttl_s=50), "policy.default_ttl"),
        (RetentionPolicy(max_ttl_s=11 * 366 * DAY_S), "policy.max_ttl"),
        (RetentionPolicy(max_results=0), "policy.max_results"),
        (RetentionPolicy(max_bytes=-1), "policy.max_bytes"),
    ],
)
def test_an_impossible_policy_is_refused(client: Client, policy: RetentionPolicy, field: str) -> None:
    before = client.get_retention_policy()
    for call in (client.set_retention_policy, client.preview_retention):
        with pytest.raises(InvalidArgument) as refused:
            call(policy)
        assert field in [one.field for one in refused.value.violations]
    assert client.get_retention_policy() == before


def test_bounds_of_the_service_hold_for_policies_set_before_them(session_home: Path, database_url: str) -> None:
    sweeping, later = {"KLINECAST_SWEEP_EVERY_S": "0.1"}, {"KLINECAST_RESULT_MAX_COUNT": "2"}
    later |= {
        f"KLINECAST_RESULT_{name}_TTL_S": text for name, text in (("MIN", "60"), ("DEFAULT", "90"), ("MAX", "120"))
    }
    home = session_home / f"bounds-{uuid.uuid4().hex[:8]}"
    with run_replicas(home, database_url, sweeping, sweeping | later) as [one, other]:
        with one.client() as client:
            policy = RetentionPolicy(
                default_ttl_s=DAY_S, min_ttl_s=3600, max_ttl_s=DAY_S, max_results=9, max_bytes=10**9
            )
            client.set_retention_policy(policy)
        with other.client() as client:
            assert client.get_retention_policy() == RetentionPolicy(
                default_ttl_s=120, min_ttl_s=120, max_ttl_s=120, max_results=2, max_bytes=10**9
            )
            assert [lifetime_s(save(client)) for _ in range(4)] == [120] * 4
            wait_until(lambda: client.get_retention_usage().results == 2)


def test_beyond_max_results_the_least_recently_read_go(client: Client, backdate) -> None:
    results = [save(client, equity=make_equity(10, seed=n)) for n in range(6)]
    for minutes, result in enumerate(results):
        backdate(result, 10 + minutes)  # the last one was read the longest ago
    client.update_retention(results[5].result_id, pinned=True)
    client.get_result(results[4].result_id)
    wait_until(lambda: client.get_result(results[4].result_id).last_read_time_ms > results[4].create_time_ms)
    policy = RetentionPolicy(max_results=3)
    preview = client.preview_retention(policy)
    assert preview.losses["MAX_RESULTS"][0] == 3
    assert preview.result_ids == tuple(results[n].result_id for n in (3, 2, 1))
    assert (preview.kept.results, preview.kept.pinned_results) == (3, 1)
    client.set_retention_policy(policy)
    wait_until(lambda: kept(client, results) == [results[0], results[4], results[5]])
    assert client.get_retention_usage() == preview.kept
    gone = list(client.list_retention_audit())
    assert {one.result_id for one in gone} == set(preview.result_ids)
    assert {one.reason for one in gone} == {"MAX_RESULTS"}
    save(client)
    wait_until(lambda: client.get_retention_usage().results == 3)


def test_beyond_max_bytes_just_enough_goes(client: Client, backdate) -> None:
    results = [save(client, equity=make_equity(1_000, seed=n)) for n in range(5)]
    for minutes, result in enumerate(results):
        backdate(result, 10 - minutes)
    most = sum(one.stored_bytes for one in results[2:])
    preview = client.preview_retention(RetentionPolicy(max_bytes=most))
    assert preview.losses == {"MAX_BYTES": (2, sum(one.stored_bytes for one in results[:2]))}
    client.set_retention_policy(RetentionPolicy(max_bytes=most))
    wait_until(lambda: kept(client, results) == results[2:])
    assert client.get_retention_usage().bytes == most


def test_pins_stay_within_the_limits(client: Client) -> None:
    client.set_retention_policy(RetentionPolicy(max_results=2))
    results = [save(client, equity=make_equity(10, seed=n)) for n in range(2)]
    for result in results:
        assert client.update_retention(result.result_id, pinned=True).expire_time_ms is None
    extra = save(client)
    with pytest.raises((ResourceExhausted, NotFound)):  # it may be gone: everything else is pinned
        client.update_retention(extra.result_id, pinned=True)
    wait_until(lambda: client.get_retention_usage().results == 2)
    assert kept(client, results) == results


def test_the_preview_deletes_nothing_and_tells_what_expired(client: Client, database: psycopg.Connection) -> None:
    result = save(client)
    assert client.preview_retention().losses == {}
    client.preview_retention(RetentionPolicy(max_results=1, max_bytes=1))
    assert client.get_result(result.result_id)


def test_what_expires_is_in_the_audit(client: Client) -> None:
    short, deleted = save(client, ttl_s=1), save(client)
    client.delete_result(deleted.result_id)
    wait_until(lambda: len(list(client.list_retention_audit())) == 2)
    by_id = {one.result_id: one for one in client.list_retention_audit()}
    assert (by_id[short.result_id].reason, by_id[deleted.result_id].reason) == ("EXPIRED", "DELETED")
    assert by_id[short.result_id].delete_time_ms >= (short.expire_time_ms or 0)
    assert by_id[short.result_id].stored_bytes == short.stored_bytes
    assert [one.result_id for one in client.list_retention_audit(reason="expired")] == [short.result_id]


def test_the_audit_is_read_in_pages(client: Client) -> None:
    results = [save(client) for _ in range(5)]
    for result in results:
        client.delete_result(result.result_id)
    records = [one.result_id for one in audit_pages(client, page_size=2)]
    assert records == [one.result_id for one in reversed(results)]


def audit_pages(client: Client, page_size: int) -> Iterator[object]:
    from klinecast.api.results.v1 import results_service_pb2 as pb

    request = pb.ListRetentionAuditRequest(page_size=page_size)
    while True:
        page = client._results._caller.unary(client._results._stub.ListRetentionAudit, request)
        yield from page.records
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def test_reads_are_noted_at_most_once_a_minute(client: Client, backdate) -> None:
    result = save(client)
    client.get_result(result.result_id)
    time.sleep(0.3)
    assert client.get_result(result.result_id).last_read_time_ms == result.last_read_time_ms
    backdate(result, 2)
    wait_until(lambda: client.get_result(result.result_id).last_read_time_ms > result.last_read_time_ms)
