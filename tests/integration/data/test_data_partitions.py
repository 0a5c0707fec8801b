"""The klines table may be partitioned by time under the service, as docs/scale.md plans it."""

import psycopg
import pytest

from tests.integration.data.kline_driver import HOUR_MS, START_MS, assert_equal, join, make_klines, pick

COUNT = 20_000
PARTITION_MS = 4_000 * HOUR_MS


@pytest.fixture
def database_url(database_url):
    """Return a database whose klines are partitioned, each partition like the table of the migrations."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE data.klines RENAME TO klines_before")
        connection.execute("ALTER INDEX data.klines_pkey RENAME TO klines_before_pkey")
        connection.execute(
            "CREATE TABLE data.klines (LIKE data.klines_before INCLUDING INDEXES) PARTITION BY RANGE (open_time)"
        )
        for number in range(8):
            start = START_MS - PARTITION_MS + number * PARTITION_MS
            bounds = f"FROM ({start}) TO ({start + PARTITION_MS})"
            connection.execute(f"CREATE TABLE data.klines_{number} PARTITION OF data.klines FOR VALUES {bounds}")
        connection.execute("DROP TABLE data.klines_before")
    return database_url


async def test_everything_works_on_partitions(data, database_url):
    klines = make_klines(COUNT)
    done = await data.ingest(klines)
    assert (done.inserted, done.revision) == (COUNT, 1)
    changed = pick(klines, slice(3_990, 4_010))
    changed["volume"] = changed["volume"] + 1
    klines["volume"][3_990:4_010] += 1
    assert (await data.ingest(changed)).updated == 20
    assert (await data.delete(START_MS + 7_990 * HOUR_MS, START_MS + 8_010 * HOUR_MS)).deleted == 20
    expected = join([pick(klines, slice(0, 7_990)), pick(klines, slice(8_010, None))])
    for _ in range(2):
        found, _ = await data.stream(START_MS, START_MS + COUNT * HOUR_MS)
        assert_equal(found, expected)
    assert [gap.missing_count for gap in (await data.gaps()).gaps] == [20]
    with psycopg.connect(database_url) as connection:
        plan = connection.execute(
            f"EXPLAIN SELECT close FROM data.klines WHERE series_id = 1 AND open_time BETWEEN {START_MS} AND {START_MS}"
        ).fetchall()
    assert sum("klines_" in line for (line,) in plan) == 1
