"""Klines in Postgres. Knows neither gRPC nor the wire; hot paths use the driver's connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from psycopg.rows import namedtuple_row

from klinecast.columns import Column
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from services.data import statements, writing
from services.data.arrays import column_from_bytes, wire_column
from services.data.blocks import Block, Snapshot, block_of
from services.data.cache import BlockKey
from services.data.catalog import Deletion, Flaws, Gap, SeriesRecord, gaps_between
from services.data.ingest import Refusal, WriteCounts
from services.data.tables import series
from services.data.validation import Columns
from services.data.writing import identity, parameters_of
from services.runtime.database import Database, DriverConnection

_ORDER = (series.c.venue, series.c.market_type, series.c.symbol, series.c.span_ms)


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

    async def write_klines(self, key: SeriesKey, columns: Columns, refusals: Sequence[Refusal]) -> WriteCounts:
        """Upsert checked klines, ascending by open_time, in one transaction; create the series when it is new."""
        async with self._database.driver() as driver:
            return await writing.write_klines(driver, key, columns, refusals)

    async def delete_klines(self, key: SeriesKey, start_ms: int, end_ms: int) -> Deletion | None:
        """Delete the klines of [start, end); None for an unknown series."""
        async with self._database.driver() as driver:
            return await writing.delete_klines(driver, key, start_ms, end_ms)

    async def list_siblings(self, key: SeriesKey) -> list[SeriesRecord]:
        """Return the stored series of the same market with any interval; those without klines are left out."""
        async with self._database.single() as driver, driver.cursor(row_factory=namedtuple_row) as cursor:
            await cursor.execute(statements.LIST_SIBLINGS, identity(key), prepare=True)
            return [_record(row) for row in await cursor.fetchall()]

    async def load_flaws(self, key: SeriesKey, start_ms: int, end_ms: int) -> Flaws | None:
        """Return what was rewritten and refused in [start, end); None for an unknown series."""
        async with self._database.driver() as driver:
            found = await (await driver.execute(statements.FIND_SERIES, identity(key))).fetchone()
            if found is None:
                return None
            parameters = parameters_of(key, found[0], start=start_ms, end=end_ms) | _block_range(key, start_ms, end_ms)
            rewritten = await driver.execute(statements.LIST_REWRITTEN, parameters)
            refused = await driver.execute(statements.LIST_REFUSED, parameters)
            return Flaws(found[1], await rewritten.fetchall(), await refused.fetchall())

    async def load_snapshot(self, key: SeriesKey, start_ms: int, end_ms: int, *, resume_ms: int) -> Snapshot | None:
        """Return the series and its blocks of [start, end) as they stand now; None for an unknown series."""
        wanted = {"start": start_ms, "end": end_ms, "resume": resume_ms} | _block_range(key, start_ms, end_ms)
        parameters = identity(key) | parameters_of(key, 0, **wanted)
        async with self._database.single() as driver:
            cursor = await driver.execute(statements.LOAD_SNAPSHOT, parameters, prepare=True)
            rows = await cursor.fetchall()
        if not rows:
            return None
        series_id, revision, first_ms, last_ms = rows[0][:4]
        blocks = tuple(Block(*row[4:]) for row in rows if row[4] is not None)
        return Snapshot(series_id, revision, first_ms, last_ms, blocks)

    async def load_last_rewrite(self, series_id: int, first_block: int, last_block: int) -> int:
        """Return the revision of the last rewrite in a run of blocks, 0 for none."""
        parameters = {"series_id": series_id, "first_block": first_block, "last_block": last_block}
        async with self._database.single() as driver:
            row = await (await driver.execute(statements.LAST_REWRITE, parameters, prepare=True)).fetchone()
        assert row is not None
        return int(row[0])

    async def load_klines(
        self, series_id: int, block: int, first_ms: int, last_ms: int, *, columns: Sequence[str]
    ) -> tuple[int, dict[str, Column]]:
        """Return the block's present rewrite_revision and columns of its klines from first to last, both inclusive."""
        parameters = {"series_id": series_id, "block": block, "first": first_ms, "last": last_ms}
        async with self._database.single() as driver, driver.cursor(binary=True) as cursor:
            await cursor.execute(statements.read_block(columns), parameters, prepare=True)
            row = await cursor.fetchone()
        assert row is not None, "a block row is never removed"
        return row[0], {name: column_from_bytes(raw, name) for name, raw in zip(columns, row[1:], strict=True)}

    async def load_sealed(self, key: BlockKey, columns: Sequence[str]) -> tuple[int, Columns | None]:
        """Return the block's present rewrite_revision and sealed columns; None unless all of them are there."""
        async with self._database.single() as driver, driver.cursor(binary=True) as cursor:
            await cursor.execute(statements.read_sealed(columns), _block_parameters(key), prepare=True)
            row = await cursor.fetchone()
        assert row is not None, "a block row is never removed"
        if any(raw is None for raw in row[1:]):
            return row[0], None
        return row[0], {name: wire_column(raw, name) for name, raw in zip(columns, row[1:], strict=True)}

    async def seal_block(self, key: BlockKey, last_ms: int, columns: Columns) -> None:
        """Keep columns of a block's klines up to the last one."""
        raw: dict[str, Any] = {name: np.ascontiguousarray(values).data.cast("B") for name, values in columns.items()}
        parameters = _block_parameters(key) | {"last_open_time": last_ms} | raw
        async with self._database.single() as driver:
            await driver.execute(statements.seal_block(list(columns)), parameters, binary=True)

    async def list_gaps(self, key: SeriesKey, start_ms: int, end_ms: int, *, limit: int) -> list[Gap] | None:
        """Return the first gaps that end at or after start and start before end; None for an unknown series."""
        async with self._database.driver() as driver:
            found = await (await driver.execute(statements.FIND_SERIES, identity(key))).fetchone()
            if found is None:
                return None
            parameters = parameters_of(key, found[0], start=start_ms, limit=limit)
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


def _block_parameters(key: BlockKey) -> dict[str, Any]:
    return {
        "series_id": key.series_id,
        "block": key.block,
        "rewrite_revision": key.rewrite_revision,
        "kline_count": key.kline_count,
    }


def _block_range(key: SeriesKey, start_ms: int, end_ms: int) -> dict[str, int]:
    return {"first_block": block_of(start_ms, key.interval), "last_block": block_of(end_ms - 1, key.interval)}


def _record(row: Any) -> SeriesRecord:
    return SeriesRecord(
        key=SeriesKey(row.venue, MarketType(row.market_type), row.symbol, Interval(row.interval)),
        first_ms=row.first_open_time,
        last_ms=row.last_open_time,
        kline_count=row.kline_count,
        revision=row.revision,
        gap_count=row.gap_count,
    )
