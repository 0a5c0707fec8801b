"""Saves whose connection was cut, or whose result expires meanwhile: a header is never without its chunks."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator

import psycopg
import pytest
from pydantic import SecretStr

from klinecast.client import Client
from klinecast.errors import Aborted, Unavailable
from services.results import statements
from services.results.retention import Policy
from services.results.saving import Chunk, Commit, ResultKey
from services.results.store import PostgresResultStore
from services.runtime.config import DatabaseSettings
from services.runtime.database import Database
from tests.results import make_equity, save

HELD = "SELECT count(*) FROM results.chunks WHERE save_id = %s"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
async def store(results_url: str) -> AsyncIterator[PostgresResultStore]:
    database = Database(DatabaseSettings(url=SecretStr(results_url)), application_name="klinecast-test")
    yield PostgresResultStore(database, Policy(default_ttl_s=60.0, min_ttl_s=1.0, max_ttl_s=60.0))
    await database.close()


def make_commit(rows: int) -> Commit:
    return Commit(
        key=ResultKey("faults", str(uuid.uuid4())),
        save_id=str(uuid.uuid4()),
        fence=1,
        ttl_s=None,
        checksum="",
        header=b"",
        strategy="x",
        series=(),
        start_time=None,
        end_time=None,
        labels={},
        statistics={},
        row_count=rows,
        stored_bytes=1,
    )


async def noticed_waiting(database: psycopg.Connection) -> None:
    async with asyncio.timeout(20):
        while True:
            if database.execute(WAITING).fetchone() != (0,):
                return
            await asyncio.sleep(0.01)


async def test_chunks_are_kept_for_a_commit_under_way(
    store: PostgresResultStore, results_url: str, database: psycopg.Connection
) -> None:
    commit = make_commit(5)
    await store.add_chunks(commit.save_id, [Chunk("equity", 0, 5, b"x")])
    key = {"tenant": commit.key.tenant, "result_id": commit.key.result_id}
    with psycopg.connect(results_url) as cut:  # Postgres goes on with what the service has given up
        cut.execute(statements.LOCK, key)
        forgetting = asyncio.create_task(store.forget_save(commit.key, commit.save_id))
        await asyncio.wait({forgetting, asyncio.create_task(noticed_waiting(database))}, return_when="FIRST_COMPLETED")
        cut.execute(statements.COMMIT, key | store._columns(commit))
    await forgetting
    assert database.execute(HELD, (commit.save_id,)).fetchone() == (1,)


async def test_a_save_whose_chunks_are_gone_is_no_result(store: PostgresResultStore) -> None:
    commit = make_commit(8)
    await store.add_chunks(commit.save_id, [Chunk("equity", 0, 5, b"x")])
    await store.forget_save(commit.key, commit.save_id)
    with pytest.raises(Unavailable):
        await store.commit(commit, [Chunk("equity", 5, 3, b"x")])
    assert await store.get(commit.key) is None


def test_saving_again_at_the_expiry_is_answered(client: Client, database: psycopg.Connection, seed: int) -> None:
    equity, chance, unchanged, refused = make_equity(10), random.Random(seed), 0, 0
    expire = "UPDATE results.results SET expire_time = clock_timestamp() + %s * interval '1 s' WHERE result_id = %s"
    for _ in range(300):
        result = save(client, equity=equity)
        database.execute(expire, (chance.uniform(0, 0.012), result.result_id))
        try:
            again = save(client, equity=equity, result_id=result.result_id)  # stored anew where it was swept
            unchanged += again.create_time_ms == result.create_time_ms
        except Aborted as error:
            refused += error.reason == "STALE_FENCE"
    assert min(unchanged, refused) > 0
