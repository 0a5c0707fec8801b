"""Writes of klines: each is one transaction that first locks its series, so block rows and counts stay right.

Klines after the last one stored are copied in, as fast as the table takes them; the others are looked up and upserted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from klinecast.columns import Column
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from services.data import statements
from services.data.arrays import Int8Array, array_parameter, copy_rows, register_arrays
from services.data.blocks import block_span_ms, max_step_ms
from services.data.catalog import Deletion
from services.data.ingest import Refusal, WriteCounts
from services.data.validation import MISSING_COUNT, OPTIONAL, Columns
from services.runtime.database import DriverConnection

_BEFORE_ALL = -1


async def write_klines(
    driver: DriverConnection, key: SeriesKey, columns: Columns, refusals: Sequence[Refusal]
) -> WriteCounts:
    """Write checked klines, ascending by open_time, in the transaction of the connection."""
    locked = await _lock_series(driver, key)
    count = len(columns["open_time_ms"])
    if locked is None:
        if not count:
            return WriteCounts(0, 0, 0)
        await driver.execute(statements.INSERT_SERIES, identity(key))
        locked = await _lock_series(driver, key)
        assert locked is not None
    series_id, revision, last = locked
    if refusals:
        await _record_refused(driver, series_id, refusals)
    last = _BEFORE_ALL if last is None else last
    new = int(np.searchsorted(columns["open_time_ms"], last, side="right"))
    columns = {name: values for name, values in columns.items() if not _is_missing(name, values)}
    if any(_has_missing(name, values) for name, values in columns.items()):
        new = count  # a COPY of rows with NULL in some has no fixed width
    parameters = parameters_of(key, series_id, revision=revision + 1, last_open_time=last)
    written = WriteCounts(0, 0, revision)
    if new:
        written = await _upsert(driver, {name: values[:new] for name, values in columns.items()}, parameters)
    if new < count:
        await _append(driver, {name: values[new:] for name, values in columns.items()}, parameters)
        written = WriteCounts(written.inserted + count - new, written.updated, revision + 1)
    return written


async def delete_klines(driver: DriverConnection, key: SeriesKey, start_ms: int, end_ms: int) -> Deletion | None:
    """Delete the klines of [start, end); None for an unknown series."""
    locked = await _lock_series(driver, key)
    if locked is None:
        return None
    series_id, revision, _ = locked
    parameters = parameters_of(key, series_id, start=start_ms, end=end_ms)
    gone = await (await driver.execute(statements.DELETE_KLINES, parameters)).fetchall()
    if not gone:
        return Deletion(0, revision)
    parameters |= {"revision": revision + 1, "blocks": [block for block, _ in gone]}
    await driver.execute(statements.RECOUNT_BLOCKS, parameters)
    await _refresh(driver, parameters)
    return Deletion(sum(count for _, count in gone), revision + 1)


def identity(key: SeriesKey) -> dict[str, Any]:
    """Return the parameters that name a series."""
    return {
        "venue": key.venue,
        "market_type": key.market_type.value,
        "symbol": key.symbol,
        "interval": key.interval.value,
        "span": key.interval.span_ms,
    }


def parameters_of(key: SeriesKey, series_id: int, **more: Any) -> dict[str, Any]:
    """Return the parameters that say how a series is cut into blocks and what a gap in it is."""
    return {
        "series_id": series_id,
        "block_span": block_span_ms(key.interval),
        "max_step": max_step_ms(key.interval),
        "full_step": 1 if key.interval is Interval.MONTH else key.interval.span_ms,
        **more,
    }


async def _lock_series(driver: DriverConnection, key: SeriesKey) -> tuple[int, int, int | None] | None:
    cursor = await driver.execute(statements.LOCK_SERIES, identity(key))
    return await cursor.fetchone()


async def _upsert(driver: DriverConnection, columns: Columns, parameters: dict[str, Any]) -> WriteCounts:
    register_arrays(driver)
    arrays = {name: array_parameter(values) for name, values in columns.items()}
    absent = {name: None for name in OPTIONAL if name not in columns}
    cursor = await driver.execute(statements.UPSERT_KLINES, parameters | absent | arrays)
    changed = await cursor.fetchall()
    if not changed:
        return WriteCounts(0, 0, parameters["revision"] - 1)
    await _refresh(driver, parameters | {"blocks": [row[0] for row in changed]})
    return WriteCounts(sum(row[1] for row in changed), sum(row[2] for row in changed), parameters["revision"])


async def _append(driver: DriverConnection, columns: Columns, parameters: dict[str, Any]) -> None:
    times = columns["open_time_ms"]
    named = {"series_id": np.full(len(times), parameters["series_id"], dtype=np.int64), "open_time": times}
    named |= {name: values for name, values in columns.items() if name != "open_time_ms"}
    async with driver.cursor() as cursor, cursor.copy(statements.copy_klines(named)) as copy:
        await copy.write(copy_rows(named))
    register_arrays(driver)
    blocks = _blocks_of(times, parameters)
    await driver.execute(
        statements.APPEND_BLOCKS, parameters | {name: Int8Array(values) for name, values in blocks.items()}
    )
    series = {
        "added": len(times),
        "first_ms": int(times[0]),
        "last_ms": int(times[-1]),
        "gaps": int(np.count_nonzero(np.diff(times) > parameters["max_step"])),
    }
    await driver.execute(statements.APPEND_SERIES, parameters | series)


def _blocks_of(times: Column, parameters: dict[str, Any]) -> dict[str, Column]:
    """Return number, count, first, last and inner gaps of each block that ascending open times fall into."""
    numbers = times // parameters["block_span"]
    starts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
    ends = np.concatenate((starts[1:], [len(times)]))
    gap_before = np.concatenate(([False], np.diff(times) > parameters["max_step"]))
    gap_before[starts] = False  # between blocks, or before what is appended: no inner gap
    return {
        "block": numbers[starts],
        "kline_count": ends - starts,
        "first": times[starts],
        "last": times[ends - 1],
        "gap_count": np.add.reduceat(gap_before.astype(np.int64), starts),
    }


async def _refresh(driver: DriverConnection, parameters: dict[str, Any]) -> None:
    """Make gap counts of changed blocks and the series row right."""
    register_arrays(driver)
    blocks = Int8Array(np.asarray(parameters["blocks"], dtype=np.int64))
    await driver.execute(statements.RECOUNT_GAPS, parameters | {"blocks": blocks})
    await driver.execute(statements.REFRESH_SERIES, parameters)


async def _record_refused(driver: DriverConnection, series_id: int, refusals: Sequence[Refusal]) -> None:
    parameters = {
        "series_id": series_id,
        "field": [one.field for one in refusals],
        "reason": [one.reason for one in refusals],
        "kline_count": [one.count for one in refusals],
        "first": [one.first_ms for one in refusals],
        "last": [one.last_ms for one in refusals],
    }
    await driver.execute(statements.RECORD_REFUSED, parameters)


def _is_missing(name: str, values: Column) -> bool:
    return name in OPTIONAL and bool(np.all(_missing(values)))


def _has_missing(name: str, values: Column) -> bool:
    return name in OPTIONAL and bool(np.any(_missing(values)))


def _missing(values: Column) -> Column:
    return np.isnan(values) if values.dtype.kind == "f" else values == MISSING_COUNT
