"""The pool, its time boxes and the listener against a real Postgres that stops, freezes and comes back."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psutil
import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from klinecast.errors import Unavailable
from services.local.postgres import PostgresServer
from services.runtime.config import DatabaseSettings
from services.runtime.database import Database
from services.runtime.listen import Listener

AWAY = (Unavailable, sa.exc.OperationalError, sa.exc.TimeoutError)


@asynccontextmanager
async def opened(url: str, **changes: float) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=SecretStr(url), **changes), application_name="klinecast-test")
    try:
        yield database
    finally:
        await database.close()


async def one(database: Database) -> int:
    """Return 1, from the database."""
    async with database.connect() as connection:
        return int((await connection.execute(sa.text("SELECT 1"))).scalar_one())


async def fails_as_away(database: Database) -> float:
    """Return how long a call took to fail because the database is away."""
    started = time.monotonic()
    with pytest.raises(AWAY):
        await one(database)
    return time.monotonic() - started


async def answers_within(database: Database, seconds: float) -> None:
    """Return once the database answers; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(*AWAY):
                assert await one(database) == 1
                return
            await asyncio.sleep(0.05)


async def test_begin_commits_and_rolls_back(empty_database_url: str) -> None:
    async with opened(empty_database_url) as database:
        async with database.begin() as connection:
            await connection.execute(sa.text("CREATE TABLE words (word text)"))
        with suppress(KeyError):
            async with database.begin() as connection:
                await connection.execute(sa.text("INSERT INTO words VALUES ('lost')"))
                raise KeyError
        async with database.driver() as driver:
            await driver.execute("INSERT INTO words VALUES ('kept')")
        async with database.connect() as connection:
            assert (await connection.execute(sa.text("SELECT word FROM words"))).scalars().all() == ["kept"]


async def test_failed_driver_block_rolls_back(empty_database_url: str) -> None:
    async with opened(empty_database_url, pool_size=1, max_overflow=0) as database:
        with suppress(psycopg.errors.UndefinedTable):
            async with database.driver() as driver:
                await driver.execute("CREATE TABLE words (word text)")
                await driver.execute("SELECT * FROM nowhere")
        async with database.driver() as driver:
            cursor = await driver.execute("SELECT to_regclass('words')")
            assert await cursor.fetchone() == (None,)


async def test_full_pool_is_unavailable_in_time(empty_database_url: str) -> None:
    async with opened(empty_database_url, pool_size=1, max_overflow=0, pool_timeout_s=0.2) as database:
        async with database.connect():
            assert await fails_as_away(database) < 1
        assert await one(database) == 1


async def test_block_over_its_time_is_cut_and_its_connection_replaced(empty_database_url: str) -> None:
    async with opened(empty_database_url, pool_size=1, max_overflow=0) as database:
        with pytest.raises(sa.exc.OperationalError):
            async with database.connect(timeout_s=0.1) as connection:
                await connection.execute(sa.text("SELECT pg_sleep(20)"))
        assert await one(database) == 1


async def test_cancelled_call_gives_its_connection_back(empty_database_url: str) -> None:
    async with opened(empty_database_url, pool_size=1, max_overflow=0) as database:

        async def sleep() -> None:
            async with database.connect() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(20)"))

        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sleep(), 0.1)
        assert await one(database) == 1


async def test_killed_server_is_noticed_and_used_again(restartable_postgres: PostgresServer) -> None:
    async with opened(restartable_postgres.url()) as database:
        await asyncio.gather(*[one(database) for _ in range(6)])
        await asyncio.to_thread(restartable_postgres.kill)
        assert await fails_as_away(database) < 3
        assert not await database.ping()
        await asyncio.to_thread(restartable_postgres.start)
        await answers_within(database, 3)
        assert await database.ping()


def wait_for_sleep(server: PostgresServer) -> None:
    """Return once somebody's pg_sleep runs."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        while not connection.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone():
            continue


def server_pid(server: PostgresServer) -> int:
    """Return the process id of a server's postmaster."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    return int(str(row[0]).split()[0])


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes for the length of the block; one of a connection that was just closed may be gone by then."""
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def test_frozen_server_is_unavailable_in_time_and_used_again(
    restartable_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.database.IDLE_CHECK_S", 0)
    async with opened(restartable_postgres.url()) as database:
        processes = [root := psutil.Process(server_pid(restartable_postgres))]
        assert await one(database) == 1
        assert await database.ping()
        processes += root.children(recursive=True)
        with frozen(processes):
            assert await fails_as_away(database) < 5
            assert not await database.ping()
        await answers_within(database, 3)


async def test_running_statement_of_a_frozen_server_is_given_up(restartable_postgres: PostgresServer) -> None:
    async with opened(restartable_postgres.url()) as database:
        root = psutil.Process(server_pid(restartable_postgres))
        assert await database.ping()

        async def sleep() -> None:
            async with database.connect() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(60)"))

        running = asyncio.ensure_future(sleep())
        await asyncio.to_thread(wait_for_sleep, restartable_postgres)
        processes = [root, *root.children(recursive=True)]
        with frozen(processes):
            async with asyncio.timeout(10):
                while not running.done():
                    await database.ping()
        with pytest.raises(sa.exc.OperationalError):
            await running


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[asyncio.Queue[str | None]]:
    wakes: asyncio.Queue[str | None] = asyncio.Queue()
    listener = Listener(url, "events", wakes.put_nowait)
    task = asyncio.create_task(listener.run())
    await listener.listening.wait()
    try:
        yield wakes
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_listener_first_says_read_all_then_each_payload(empty_database_url: str) -> None:
    async with listening(empty_database_url) as wakes, opened(empty_database_url) as database:
        for payload in ("a", "b"):
            async with database.begin() as connection:
                await connection.execute(sa.text("SELECT pg_notify('events', :payload)"), {"payload": payload})
        assert [await asyncio.wait_for(wakes.get(), 5) for _ in range(3)] == [None, "a", "b"]


async def test_no_payload_is_lost_around_heartbeats(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.listen.HEARTBEAT_S", 0.002)
    async with listening(empty_database_url) as wakes:
        assert await wakes.get() is None
        async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
            for number in range(300):
                await connection.execute("SELECT pg_notify('events', %s)", [str(number)])
        assert [await asyncio.wait_for(wakes.get(), 5) for _ in range(300)] == [str(number) for number in range(300)]


async def test_listener_polls_through_an_outage_and_listens_again(restartable_postgres: PostgresServer) -> None:
    async with listening(restartable_postgres.url()) as wakes:
        await asyncio.to_thread(restartable_postgres.kill)
        assert [await asyncio.wait_for(wakes.get(), 5) for _ in range(3)] == [None] * 3
        await asyncio.to_thread(restartable_postgres.start)
        async with opened(restartable_postgres.url()) as database, asyncio.timeout(5):
            payload = None
            while payload is None:
                async with database.begin() as connection:
                    await connection.execute(sa.text("NOTIFY events, 'again'"))
                payload = await wakes.get()
        assert payload == "again"
