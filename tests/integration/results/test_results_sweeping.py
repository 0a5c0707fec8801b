"""The sweeper: batches of bounded bytes, no step waits for another, and what was read or retained since stays."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from klinecast.client import Client, RetentionPolicy
from services.results.retention import Policy
from services.results.retention_store import PostgresRetentionStore
from services.results.saving import ResultKey
from services.results.store import PostgresResultStore
from services.runtime.config import DatabaseSettings
from services.runtime.database import Database, libpq_url
from tests.results import make_equity, run_replicas, save, wait_until

MANY = """
INSERT INTO results.results (tenant_id, result_id, save_id, fence, checksum, strategy, labels, statistics, header,
                             stored_bytes, create_time, last_read_time, expire_time)
SELECT %(tenant)s, gen_random_uuid(), gen_random_uuid(), 1, '', 'x', '{}', '{}', '', %(size)s, now(),
  now() - nth * interval '1 minute', now() + %(lives)s::interval FROM generate_series(1, %(count)s) AS nth
RETURNING result_id::text
"""
LAST_TO_GO = "SELECT result_id::text FROM results.results ORDER BY last_read_time OFFSET 245 LIMIT 1"
HOLD = """
SELECT FROM results.chunks JOIN results.results USING (save_id) WHERE tenant_id IN ('t0', 't1') FOR UPDATE OF chunks
"""
SIZE = 30 * 1024 * 1024


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=SecretStr(database_url)), application_name="klinecast-test")
    yield database
    await database.close()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection


def insert(connection: psycopg.Connection, count: int, size: int = 1, lives: str = "1 hour") -> list[str]:
    """Insert results of a tenant t, the most recently read first; return their ids."""
    parameters = {"tenant": "t", "count": count, "size": size, "lives": lives}
    return [one for (one,) in connection.execute(MANY, parameters).fetchall()]


async def test_a_batch_is_bounded_by_bytes(database: Database, connection: psycopg.Connection) -> None:
    kept = PostgresRetentionStore(database, Policy(max_results=1), audit_keep_s=60.0)
    insert(connection, 5, SIZE, "-1 second")
    insert(connection, 2, 10 * SIZE, "-2 seconds")
    after, swept = None, []
    while not swept or swept[-1]:
        taken, after = await kept.sweep(after)
        swept.append(taken.results)
    assert swept == [1, 1, 2, 2, 1, 0]
    insert(connection, 6, SIZE)
    assert [(await kept.evict("t")).results for _ in range(4)] == [2, 2, 1, 0]


async def test_what_is_retained_while_others_are_evicted_stays(
    database: Database, connection: psycopg.Connection, seed: int
) -> None:
    service = Policy(default_ttl_s=60.0, min_ttl_s=1.0, max_ttl_s=60.0, max_results=250)
    kept, store = PostgresRetentionStore(database, service, audit_keep_s=60.0), PostgresResultStore(database, service)
    chance, extended = random.Random(seed), 0
    insert(connection, 250)
    for _ in range(100):
        insert(connection, 250)
        [(result_id,)] = connection.execute(LAST_TO_GO).fetchall()
        evicting = asyncio.create_task(kept.evict("t"))
        await asyncio.sleep(chance.uniform(0, 0.01))
        answered = await store.set_ttl(ResultKey("t", result_id), 3600.0, extend_only=True)
        await evicting
        extended += answered is not None
        assert answered is None or await store.get(answered.key) is not None
    assert 0 < extended < 100


def test_a_tenant_that_cannot_be_swept_holds_nobody_up(
    session_home: Path, database_url: str, connection: psycopg.Connection
) -> None:
    settings = {"KLINECAST_DATABASE__STATEMENT_TIMEOUT_S": "0.3", "KLINECAST_SWEEP_EVERY_S": "0.05"}
    home = session_home / f"sweeping-{uuid.uuid4().hex[:8]}"
    with run_replicas(home, database_url, settings) as [replica]:
        clients = [replica.client(tenant=f"t{number}") for number in range(6)]
        results = [save(client, equity=make_equity(10)) for client in clients for _ in range(2)]
        with psycopg.connect(libpq_url(database_url)) as holder:  # what it holds cannot be deleted
            holder.execute(HOLD)
            for client in clients:
                client.set_retention_policy(RetentionPolicy(max_results=1))
            wait_until(lambda: [usage(one) for one in clients] == [2, 2, 1, 1, 1, 1])
            connection.execute("UPDATE results.results SET last_read_time = last_read_time - interval '2 minutes'")
            read = clients[0].get_result(results[0].result_id)
            wait_until(lambda: clients[0].get_result(read.result_id).last_read_time_ms > read.last_read_time_ms)
            wait_until(lambda: '"step": "evict"' in replica.log())
        wait_until(lambda: [usage(one) for one in clients] == [1] * 6)
        for client in clients:
            client.close()


def usage(client: Client) -> int:
    return client.get_retention_usage().results
