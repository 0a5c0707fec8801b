"""How long backtests and their results are kept, and what each side tells of the other."""

import asyncio
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from klinecast.api.results.v1 import result_pb2
from klinecast.client import Backtest, Client, RetentionPolicy
from klinecast.errors import InvalidArgument, NotFound
from services.backtest.expiry import ResultExpiry
from services.backtest.jobs import JobKey
from services.backtest.store import PostgresJobStore
from services.runtime.config import DatabaseSettings
from services.runtime.database import Database
from tests.factories import make_config
from tests.suite import Suite, run_suite


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with suite.client(tenant=f"tenant-{uuid.uuid4().hex[:8]}") as client:
        yield client


def finish(client: Client, **options: object) -> Backtest:
    event = list(client.run_backtest(make_config(client, **options)))[-1]
    return client.get_backtest(event.backtest_id)


def test_a_backtest_tells_that_its_result_expired(client: Client) -> None:
    backtest = finish(client, result_ttl_s=1.0)
    expire_time_ms = client.get_result(str(backtest.result_id)).expire_time_ms or 0
    assert backtest.result_expired is False
    while time.time() <= expire_time_ms / 1000:
        time.sleep(0.01)
    assert client.get_backtest(backtest.backtest_id).result_expired is True
    assert [one.result_expired for one in client.list_backtests()] == [True]


def test_a_backtest_tells_that_its_result_was_deleted(client: Client) -> None:
    kept, deleted = finish(client), finish(client)
    client.delete_result(str(deleted.result_id))
    found = {one.backtest_id: one.result_expired for one in client.list_backtests()}
    assert found == {kept.backtest_id: False, deleted.backtest_id: True}


async def test_a_result_missed_once_and_seen_again_is_not_marked_for_ever(suite: Suite) -> None:
    tenant, missed = f"tenant-{uuid.uuid4().hex[:8]}", set()
    with suite.client(tenant=tenant) as client:
        backtest = await asyncio.to_thread(finish, client)
    database = Database(DatabaseSettings(url=SecretStr(suite.database_url)), application_name="klinecast-test")
    store, key = PostgresJobStore(database), JobKey(tenant, backtest.backtest_id)

    async def check_results(tenant: str, ids: Sequence[str]) -> Sequence[str]:
        return [one for one in ids if one not in missed]

    expiry = ResultExpiry(store, check_results)
    marked = []
    for gone in (True, False, True, True):
        missed = {backtest.result_id} if gone else set()
        [told] = await expiry.told([await store.get(key)])
        assert told.result_expired is gone
        while not await expiry.look():
            continue
        marked.append((await store.get(key)).result_expired)
    await database.close()
    assert marked == [False, False, False, True]


@pytest.mark.parametrize("ttl_s", [59.0, 601.0])
def test_a_ttl_beyond_the_tenants_bounds_is_refused_before_anything_is_queued(client: Client, ttl_s: float) -> None:
    client.set_retention_policy(RetentionPolicy(default_ttl_s=300, min_ttl_s=60, max_ttl_s=600))
    config = make_config(client, result_ttl_s=ttl_s)
    with pytest.raises(InvalidArgument, match=r"config\.result_ttl: must be 60 s \.\. 600 s"):
        client.create_backtest(config)
    assert list(client.list_backtests()) == []
    assert finish(client, result_ttl_s=600.0).state == "SUCCEEDED"


def test_reasons_are_the_numbers_of_the_contract(client: Client) -> None:
    result_id = str(finish(client, params={"fast": 3, "slow": 10}).result_id)
    assert np.unique(client.load_fills(result_id)["reason"]).tolist() == [result_pb2.FILL_REASON_SIGNAL]
    closed = client.load_trades(result_id)["exit_reason"][:-1]
    assert np.unique(closed).tolist() == [result_pb2.FILL_REASON_SIGNAL]


def test_each_state_is_kept_for_its_time(session_home: Path, database_url: str) -> None:
    home = session_home / f"suite-{uuid.uuid4().hex[:8]}"
    with run_suite(home, database_url, FAILED_RETENTION_S="0.2") as suite, suite.client() as client:
        succeeded, failed = finish(client), finish(client, strategy="stumble", params={"at": 17, "how": "raise"})
        assert (succeeded.state, failed.state) == ("SUCCEEDED", "FAILED")
        suite.kill("results")
        assert client.get_backtest(succeeded.backtest_id).result_expired is None  # nobody can tell
        suite.start("results")
        suite.kill("backtest")
        suite.start("backtest")  # it sweeps at its start, and each minute
        deadline = time.monotonic() + 20
        while len(found := list(client.list_backtests())) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert found == [succeeded]
        with pytest.raises(NotFound):
            client.get_backtest(failed.backtest_id)
