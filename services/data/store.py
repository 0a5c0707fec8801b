"""Klines in Postgres. Knows neither gRPC nor the wire; hot paths use the driver's connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from klinecast.columns import Column
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from services.data import statements
from services.data.arrays import Int8Array, array_parameter, column_from_bytes, register_arrays
from services.data.blocks import Block, Snapshot, block_of, block_span_ms, max_step_ms
from services.data.catalog import Deletion, Gap, SeriesRecord, gaps_between
from services.data.ingest import WriteCounts
from services.data.tables import series
from services.data.validation import Columns
from services.runtime.database import Database, DriverConnection

_ORDER = (series.c.venue, series.c.market_type, series.c.symbol, series.c.span_ms)
_BEFORE_ALL = -1


class DataStore:
    """The tables of the schema `data`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_series(self, *, venue: str, symbol: str, after: SeriesKey | None, limit: int) -> list[SeriesRecord]:
        """Return series by venue, market type, symbol and interval, those after `after`; empty filters match all."""
        query = sa.select(series).order_by(*_ORDER).limit(limit)
        if venue:
            query = query.where(series.c.venue == venue)
        if symbol:
            query = query.where(series.c.symbol == symbol)
        if after is not None:
            place = (after.venue, after.market_type.value, after.symbol, after.interval.span_ms)
            query = query.where(sa.tuple_(*_ORDER) > sa.tuple_(*place))
        async with self._database.begin() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def get_series(self, key: SeriesKey) -> SeriesRecord | None:
        """Return one series, None when it was never ingested."""
        query = sa.select(series).where(
            series.c.venue == key.venue,
            series.c.market_type == key.market_type.value,
            series.c.symbol == key.symbol,
            series.c.interval == key.interval.value,
        )
        async with self._database.begin() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _record(row)

    async def write_klines(self, key: SeriesKey, columns: Columns) -> WriteCounts:
        """Upsert checked klines, ascending by open_time, in one transaction; create the series when it is new."""
        async with self._database.driver() as driver:
            locked = await _lock_series(driver, key)
            if not len(columns["open_time_ms"]):
                return WriteCounts(0, 0, locked[1] if locked else 0)
            if locked is None:
                await driver.execute(statements.INSERT_SERIES, _identity(key))
                locked = await _lock_series(driver, key)
                assert locked is not None
            return await _upsert(driver, key, columns, *locked)

    async def delete_klines(self, key: SeriesKey, start_ms: int, end_ms: int) -> Deletion | None:
        """Delete the klines of [start, end); None for an unknown series."""
        async with self._database.driver() as driver:
            locked = await _lock_series(driver, key)
            if locked is None:
                return None
            series_id, revision, _ = locked
            parameters = _parameters(key, series_id, start=start_ms, end=end_ms)
            gone = await (await driver.execute(statements.DELETE_KLINES, parameters)).fetchall()
            if not gone:
                return Deletion(0, revision)
            parameters |= {"revision": revision + 1, "blocks": [block for block, _ in gone]}
            await driver.execute(statements.RECOUNT_BLOCKS, parameters)
            await _refresh(driver, parameters)
            return Deletion(sum(count for _, count in gone), revision + 1)

    async def load_snapshot(self, key: SeriesKey, start_ms: int, end_ms: int, *, resume_ms: int) -> Snapshot | None:
        """Return the series and its blocks of [start, end) as they stand now; None for an unknown series."""
        parameters = _identity(key) | {
            "start": start_ms,
            "end": end_ms,
            "resume": resume_ms,
            "first_block": block_of(start_ms, key.interval),
            "last_block": block_of(end_ms - 1, key.interval),
        }
        async with self._database.driver() as driver:
            cursor = await driver.execute(statements.LOAD_SNAPSHOT, parameters, prepare=True)
            rows = await cursor.fetchall()
        if not rows:
            return None
        series_id, revision, last_ms = rows[0][:3]
        return Snapshot(series_id, revision, last_ms, tuple(Block(*row[3:]) for row in rows if row[3] is not None))

    async def load_klines(
        self, series_id: int, block: int, first_ms: int, last_ms: int, *, columns: Sequence[str]
    ) -> tuple[int, dict[str, Column]]:
        """Return the block's present rewrite_revision and its klines from first to last, both inclusive."""
        parameters = {"series_id": series_id, "block": block, "first": first_ms, "last": last_ms}
        async with self._database.driver() as driver, driver.cursor(binary=True) as cursor:
            await cursor.execute(statements.read_block(columns), parameters, prepare=True)
            row = await cursor.fetchone()
        assert row is not None, "a block row is never removed"
        names = ("open_time_ms", *columns)
        return row[0], {name: column_from_bytes(raw, name) for name, raw in zip(names, row[1:], strict=True)}

    async def list_gaps(self, key: SeriesKey, start_ms: int, end_ms: int, *, limit: int) -> list[Gap] | None:
        """Return the first gaps that end at or after start and start before end; None for an unknown series."""
        async with self._database.driver() as driver:
            found = await (await driver.execute(statements.FIND_SERIES, _identity(key))).fetchone()
            if found is None:
                return None
            parameters = _parameters(key, found[0], start=start_ms, limit=limit)
            return await _find_gaps(driver, key.interval, parameters, end_ms)


async def _find_gaps(
    driver: DriverConnection, interval: Interval, parameters: dict[str, Any], end_ms: int
) -> list[Gap]:
    """Walk the block rows; scan only blocks that have gaps, and stop when there are enough."""
    start_ms, limit = parameters["start"], parameters["limit"]
    found: list[Gap] = []
    before: int | None = None
    for first, last, gap_count in await (await driver.execute(statements.LIST_BLOCKS, parameters)).fetchall():
        steps = [] if before is None else [(before, first)]
        before = last
        if gap_count and last > start_ms and first < end_ms:
            cursor = await driver.execute(statements.LIST_STEPS, parameters | {"first": first, "last": last})
            steps += await cursor.fetchall()
        gaps = gaps_between(steps, interval)
        found += [gap for gap in gaps if gap.last_ms >= start_ms and gap.first_ms < end_ms]
        if len(found) >= limit or last >= end_ms:
            break
    return found[:limit]


async def _lock_series(driver: DriverConnection, key: SeriesKey) -> tuple[int, int, int | None] | None:
    cursor = await driver.execute(statements.LOCK_SERIES, _identity(key))
    return await cursor.fetchone()


async def _upsert(
    driver: DriverConnection, key: SeriesKey, columns: Columns, series_id: int, revision: int, last: int | None
) -> WriteCounts:
    register_arrays(driver)
    parameters = _parameters(
        key, series_id, revision=revision + 1, last_open_time=_BEFORE_ALL if last is None else last
    )
    arrays = {name: array_parameter(values) for name, values in columns.items()}
    changed = await (await driver.execute(statements.UPSERT_KLINES, parameters | arrays)).fetchall()
    if not changed:
        return WriteCounts(0, 0, revision)
    await _refresh(driver, parameters | {"blocks": [row[0] for row in changed]})
    return WriteCounts(sum(row[1] for row in changed), sum(row[2] for row in changed), revision + 1)


async def _refresh(driver: DriverConnection, parameters: dict[str, Any]) -> None:
    """Make gap counts of changed blocks and the series row right."""
    register_arrays(driver)
    blocks = Int8Array(np.asarray(parameters["blocks"], dtype=np.int64))
    await driver.execute(statements.RECOUNT_GAPS, parameters | {"blocks": blocks})
    await driver.execute(statements.REFRESH_SERIES, parameters)


def _identity(key: SeriesKey) -> dict[str, Any]:
    return {
        "venue": key.venue,
        "market_type": key.market_type.value,
        "symbol": key.symbol,
        "interval": key.interval.value,
        "span": key.interval.span_ms,
    }


def _parameters(key: SeriesKey, series_id: int, **more: Any) -> dict[str, Any]:
    return {
        "series_id": series_id,
        "block_span": block_span_ms(key.interval),
        "max_step": max_step_ms(key.interval),
        "full_step": 1 if key.interval is Interval.MONTH else key.interval.span_ms,
        **more,
    }


def _record(row: sa.Row[Any]) -> SeriesRecord:
    return SeriesRecord(
        key=SeriesKey(row.venue, MarketType(row.market_type), row.symbol, Interval(row.interval)),
        first_ms=row.first_open_time,
        last_ms=row.last_open_time,
        kline_count=row.kline_count,
        revision=row.revision,
        gap_count=row.gap_count,
    )
