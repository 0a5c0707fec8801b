"""Stored indicator series in Postgres. Knows neither gRPC nor the wire."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from klinecast.indicators import IndicatorKey
from klinecast.types import MarketType
from services.data.arrays import array_parameter, column_from_bytes, register_arrays
from services.data.cache import Columns
from services.data.indicators import statements
from services.data.indicators.series import IndicatorRecord, IndicatorSnapshot
from services.data.ingest import WriteCounts
from services.data.tables import indicator_series as series
from services.runtime.database import Database

_ORDER = (series.c.venue, series.c.market_type, series.c.symbol, series.c.name)
PAGE_VALUES = 32_768


class IndicatorStore:
    """The tables of stored indicators."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write_values(self, key: IndicatorKey, columns: Columns) -> WriteCounts:
        """Upsert checked values, ascending by open_time, in one transaction; create the series when it is new."""
        async with self._database.driver() as driver:
            locked = await (await driver.execute(statements.LOCK_SERIES, _identity(key))).fetchone()
            if not len(columns["open_time_ms"]):
                return WriteCounts(0, 0, locked[1] if locked else 0)
            if locked is None:
                await driver.execute(statements.INSERT_SERIES, _identity(key))
                locked = await (await driver.execute(statements.LOCK_SERIES, _identity(key))).fetchone()
                assert locked is not None
            register_arrays(driver)
            arrays = {name: array_parameter(values) for name, values in columns.items()}
            cursor = await driver.execute(statements.UPSERT_VALUES, {"series_id": locked[0], **arrays})
            row = await cursor.fetchone()
            assert row is not None
            return WriteCounts(row[0], row[1], locked[1] + (1 if row[0] + row[1] else 0))

    async def load_snapshot(self, key: IndicatorKey) -> IndicatorSnapshot | None:
        """Return a series as it stands now; None for an unknown one."""
        async with self._database.single() as driver:
            row = await (await driver.execute(statements.LOAD_SNAPSHOT, _identity(key), prepare=True)).fetchone()
        return None if row is None else IndicatorSnapshot(*row)

    async def count_values(
        self, snapshot: IndicatorSnapshot, first_ms: int, last_ms: int, resume_ms: int
    ) -> tuple[int, int]:
        """Count the values from first to last, both inclusive: all, and those before an instant."""
        parameters = {"series_id": snapshot.series_id, "first": first_ms, "last": last_ms, "resume": resume_ms}
        async with self._database.single() as driver:
            row = await (await driver.execute(statements.COUNT_VALUES, parameters, prepare=True)).fetchone()
        assert row is not None
        return row[0], row[1]

    async def load_page(self, snapshot: IndicatorSnapshot, first_ms: int, last_ms: int) -> tuple[int, Columns]:
        """Return the present rewrite_revision and the first 32,768 values from first to last, both inclusive."""
        parameters = {"series_id": snapshot.series_id, "first": first_ms, "last": last_ms, "limit": PAGE_VALUES}
        return await self._load(statements.LOAD_PAGE, parameters)

    async def load_last_before(self, snapshot: IndicatorSnapshot, time_ms: int) -> tuple[int, Columns]:
        """Return the present rewrite_revision and the last value before an instant, if there is one."""
        return await self._load(statements.LOAD_LAST_BEFORE, {"series_id": snapshot.series_id, "first": time_ms})

    async def list_indicator_series(
        self, *, venue: str, symbol: str, after: IndicatorKey | None, limit: int
    ) -> list[IndicatorRecord]:
        """Return series by identity, those after `after`; empty filters match all."""
        query = sa.select(series).order_by(*_ORDER).limit(limit)
        if venue:
            query = query.where(series.c.venue == venue)
        if symbol:
            query = query.where(series.c.symbol == symbol)
        if after is not None:
            place = (after.venue, after.market_type.value, after.symbol, after.name)
            query = query.where(sa.tuple_(*_ORDER) > sa.tuple_(*place))
        async with self._database.connect() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def _load(self, statement: str, parameters: dict[str, Any]) -> tuple[int, Columns]:
        async with self._database.single() as driver, driver.cursor(binary=True) as cursor:
            await cursor.execute(statement, parameters, prepare=True)
            row = await cursor.fetchone()
        assert row is not None
        columns = {"open_time_ms": row[1], "value": row[2]}
        return row[0], {name: column_from_bytes(raw, name) for name, raw in columns.items()}


def _identity(key: IndicatorKey) -> dict[str, Any]:
    return {"venue": key.venue, "market_type": key.market_type.value, "symbol": key.symbol, "name": key.name}


def _record(row: sa.Row[Any]) -> IndicatorRecord:
    return IndicatorRecord(
        key=IndicatorKey(row.venue, MarketType(row.market_type), row.symbol, row.name),
        first_ms=row.first_open_time,
        last_ms=row.last_open_time,
        value_count=row.value_count,
        revision=row.revision,
    )
