"""Reading one series costs the same beside many others that are appended in turn with it."""

from collections.abc import Mapping

import psycopg
import pytest

from klinecast.convert.data import KlineQuery
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from services.data import statements
from services.data.cache import BlockCache
from services.data.reading import BlockReader
from services.data.store import DataStore
from services.data.stream import KlineStreams
from services.runtime.config import DatabaseSettings
from services.runtime.database import Database
from tests import postgres
from tests.integration.data.kline_driver import HOUR_MS, START_MS, make_klines, pick

YEAR, STEP, OTHERS, UNREAD = 8_760, 120, 199, 960
END_MS = START_MS + YEAR * HOUR_MS
COLUMNS = ("open", "high", "low", "close", "volume")


def make_key(number):
    return SeriesKey("BINANCE", MarketType.SPOT, f"S{number}", Interval.H1)


QUERY = KlineQuery(make_key(0), START_MS, END_MS, 32_768, COLUMNS, START_MS, None)


class Ignored:
    """Counts nothing."""

    def observe_cache(self, *, hit):
        """Do nothing."""


async def fill(url, series):
    """Store a year of every series, five days of one, then of the next; read one before its last forty days come."""
    klines = make_klines(YEAR)
    database = Database(DatabaseSettings(url=url), application_name="test")
    store = DataStore(database)
    try:
        for start in range(0, YEAR, STEP):
            if start == YEAR - UNREAD:
                await read_once(store)
            for number in range(series):
                await store.write_klines(make_key(number), pick(klines, slice(start, start + STEP)), ())
        return await store.load_snapshot(QUERY.key, START_MS, END_MS, resume_ms=START_MS)
    finally:
        await database.close()


async def read_once(store):
    reader = BlockReader(store, BlockCache(0), Ignored())
    assert sum([message.count async for message in KlineStreams(store, reader).stream(QUERY)]) == YEAR - UNREAD
    await reader.close()


def buffers(url, snapshot):
    """Return the buffers that a year of the series touches: read as the service reads it, and by its rows alone."""
    touched = {"service": 0, "rows": 0}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM data.klines")
        for block in snapshot.blocks:
            whole = {"series_id": snapshot.series_id, "block": block.number, "last": block.last_ms}
            rows, sealed = statements.read_block(COLUMNS), statements.read_sealed(COLUMNS)
            touched["rows"] += explain(connection, rows, whole | {"first": block.first_ms})
            assert block.sealed_count
            kept = {"rewrite_revision": block.rewrite_revision, "kline_count": block.sealed_count}
            touched["service"] += explain(connection, sealed, whole | kept)
            if block.sealed_count < block.kline_count:
                touched["service"] += explain(connection, rows, whole | {"first": block.sealed_last_ms + 1})
    return touched


def explain(connection, statement: str, parameters: Mapping[str, int]) -> int:
    query = f"EXPLAIN (ANALYZE, BUFFERS, SERIALIZE BINARY, FORMAT JSON) {statement}"  # columns are read when sent
    document = connection.execute(query, parameters).fetchone()[0][0]
    plan = [document["Plan"], document.get("Serialization", {})]
    return sum(part.get(f"Shared {kind} Blocks", 0) for part in plan for kind in ("Hit", "Read"))


@pytest.mark.timeout(120)
async def test_a_year_beside_199_others_touches_the_buffers_it_touches_alone(
    postgres_server, template_database, capsys
):
    found = {}
    for series in (1, 1 + OTHERS):
        with postgres.copy_database(postgres_server, template_database) as url:
            found[series] = buffers(url, await fill(url, series))
    alone, beside = found.values()
    with capsys.disabled():
        for how, one in alone.items():
            print(f"\nbuffers of a year of 1h, {how}: alone {one}, beside {OTHERS} {beside[how]}", end="")
            print(f" ({beside[how] / one:.2f})", end="")
    assert beside["service"] <= 1.2 * alone["service"]
    assert beside["rows"] <= 2.0 * alone["rows"]
