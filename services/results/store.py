"""Results in Postgres: runs the statements and turns rows into domain objects."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from psycopg.rows import DictRow, dict_row

from klinecast.errors import Unavailable
from services.results import retention_statements, statements
from services.results.keeping import Listing, Page, PinnedTooMuchError
from services.results.retention import Policy, Reason
from services.results.saving import Chunk, Commit, ResultKey, StaleFenceError, StoredResult
from services.runtime.database import Database, DriverConnection
from services.runtime.paging import Cursor

_PAGE_BYTES = 3 * 1024 * 1024
"""Of headers on a page: a message holds 4 MiB, and the header of a hundred series is a quarter of one."""


class PostgresResultStore:
    """All results of all tenants; every call names its tenant."""

    def __init__(self, database: Database, service_policy: Policy) -> None:
        self._database = database
        self._service = service_policy

    async def add_chunks(self, save_id: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks that nobody sees yet."""
        async with self._database.driver() as connection:
            await _add(connection, save_id, chunks)

    async def commit(self, commit: Commit, chunks: Sequence[Chunk]) -> tuple[StoredResult, bool]:
        """Store the last chunks and make the result visible; False when the same one was there.

        StaleFenceError; Unavailable when chunks stored before are gone.
        """
        key = _key(commit.key)
        async with self._database.driver() as connection:
            async with connection.pipeline():
                await connection.execute(statements.LOCK, key)
                same = key | {"save_id": commit.save_id, "checksum": commit.checksum, "header": commit.header}
                cursor = await connection.cursor(row_factory=dict_row).execute(statements.BEFORE_COMMIT, same)
                [before] = await cursor.fetchall()
            if before["result_id"] is not None:
                return _result(before), False
            if commit.fence <= max(before["buried"] or 0, before["fence"] or 0):
                raise StaleFenceError
            if before["stored_rows"] + sum(one.row_count for one in chunks) != commit.row_count:
                raise Unavailable("rows of this save are not there any more: save it again")
            async with connection.pipeline():
                if before["fence"] is not None:
                    await connection.execute(statements.REMOVE, key | _because(None))
                await _add(connection, commit.save_id, chunks)
                parameters = key | self._columns(commit)
                cursor = await connection.cursor(row_factory=dict_row).execute(statements.COMMIT, parameters)
                await connection.commit()
                [stored] = await cursor.fetchall()
            return _result(stored), True

    def _columns(self, commit: Commit) -> dict[str, object]:
        return {
            "save_id": commit.save_id,
            "fence": commit.fence,
            "checksum": commit.checksum,
            "strategy": commit.strategy,
            "series": json.dumps(list(commit.series)),
            "start_time": commit.start_time,
            "end_time": commit.end_time,
            "labels": json.dumps(dict(commit.labels)),
            "statistics": json.dumps(dict(commit.statistics)),
            "header": commit.header,
            "stored_bytes": commit.stored_bytes,
            "ttl_s": commit.ttl_s,
            "default_ttl_s": self._service.default_ttl_s,
            "min_ttl_s": self._service.min_ttl_s,
            "max_ttl_s": self._service.max_ttl_s,
        }

    async def forget_save(self, key: ResultKey, save_id: str) -> None:
        """Drop the chunks of a save that did not become a result."""
        async with self._database.driver() as connection:
            await run(connection, statements.LOCK, _key(key))  # a commit that was cut may go on
            await run(connection, statements.FORGET_SAVE, {"save_id": save_id})

    async def get(self, key: ResultKey) -> StoredResult | None:
        """Return a live result."""
        async with self._database.single() as connection:
            return _first(await run(connection, statements.GET, _key(key)))

    async def get_several(self, tenant: str, result_ids: Sequence[str]) -> Sequence[StoredResult]:
        """Return those that are live, all as of one instant."""
        async with self._database.single() as connection:
            parameters = {"tenant": tenant, "result_ids": list(result_ids)}
            return [_result(row) for row in await run(connection, statements.GET_SEVERAL, parameters)]

    async def check(self, tenant: str, result_ids: Sequence[str]) -> tuple[Sequence[str], datetime]:
        """Return the ids of those that are live, and the instant."""
        async with self._database.single() as connection:
            parameters = {"tenant": tenant, "result_ids": list(result_ids)}
            [row] = await run(connection, statements.CHECK, parameters)
        return row["result_ids"], row["read_time"]

    async def list(self, tenant: str, listing: Listing) -> Page:
        """Return a page of live results."""
        by_statistic = bool(listing.order_by)
        statement = statements.list_statement(by_statistic=by_statistic, ascending=listing.ascending)
        after_key, after_id = listing.after or (None, None)
        parameters = {
            "tenant": tenant,
            "strategy": listing.strategy or None,
            "series": json.dumps([dict(listing.series)]) if listing.series else None,
            "labels": json.dumps(dict(listing.labels)),
            "created_from": listing.created_from,
            "created_before": listing.created_before,
            "range_from": listing.range_from,
            "range_before": listing.range_before,
            "bounds": json.dumps([dict(one) for one in listing.bounds]),
            "order_by": listing.order_by,
            "undefined": math.inf if listing.ascending else -math.inf,
            "after_key": after_key,
            "after_id": after_id,
            "limit": listing.page_size,
            "most_bytes": _PAGE_BYTES,
        }
        async with self._database.single() as connection:
            rows = await run(connection, statement, parameters)
            read_time = rows[0]["read_time"] if rows else (await run(connection, statements.NOW, {}))[0]["read_time"]
        more = bool(rows) and (rows[0]["found"] == listing.page_size or len(rows) < rows[0]["found"])
        cursor = _cursor(rows[-1]) if more else None
        return Page([_result(row) for row in rows], cursor, read_time)

    async def chunk(self, save_id: str, kind: str, row: int) -> Chunk | None:
        """Return the chunk that holds a row; None when it is gone."""
        async with self._database.single() as connection:
            rows = await run(connection, statements.CHUNK, {"save_id": save_id, "kind": kind, "row": row})
        if not rows:
            return None
        [found] = rows
        payload = bytes(found["payload"])
        return Chunk(kind, found["first_row"], found["row_count"], payload, packed=found["packing"] == 1)

    async def set_ttl(self, key: ResultKey, ttl_s: float, *, extend_only: bool) -> StoredResult | None:
        """Let a live result expire so long from now; with extend_only never sooner than it would."""
        statement = statements.EXTEND if extend_only else statements.SET_TTL
        async with self._database.single() as connection:
            return _first(await run(connection, statement, {**_key(key), "ttl_s": ttl_s}))

    async def pin(self, key: ResultKey, policy: Policy) -> StoredResult | None:
        """Keep a live result until it is unpinned. PinnedTooMuchError."""
        async with self._database.driver() as connection:
            if policy.limited:
                await run(connection, retention_statements.LOCK_TENANT, _key(key))
            pinned = _first(await run(connection, statements.PIN, _key(key)))
            if pinned is not None and policy.limited:
                [usage] = await run(connection, retention_statements.USAGE, _key(key))
                if _over(usage["pinned_results"], policy.max_results) or _over(usage["pinned_bytes"], policy.max_bytes):
                    raise PinnedTooMuchError
        return pinned

    async def delete(self, key: ResultKey, tombstone_fence: int) -> bool:
        """Delete a result and refuse late saves up to a fence; return whether there was a live one."""
        async with self._database.driver() as connection:
            await run(connection, statements.LOCK, _key(key))
            if tombstone_fence > 0:
                await run(connection, statements.BURY, {**_key(key), "fence": tombstone_fence})
            rows = await run(connection, statements.REMOVE, _key(key) | _because(Reason.DELETED))
        return bool(rows and rows[0]["live"])


async def run(connection: DriverConnection, statement: str, parameters: Mapping[str, object]) -> Sequence[DictRow]:
    """Run one statement; return its rows by name."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


def _key(key: ResultKey) -> dict[str, object]:
    return {"tenant": key.tenant, "result_id": key.result_id}


def _because(reason: Reason | None) -> dict[str, object]:
    """Say why a live result goes, None for no record; one that has expired went by time, whoever removes its row."""
    return {"reason": None if reason is None else int(reason), "by_time": int(Reason.EXPIRED)}


def _over(value: int, most: int | None) -> bool:
    return most is not None and value > most


async def _add(connection: DriverConnection, save_id: str, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        parameters = {
            "save_id": save_id,
            "kind": chunk.kind,
            "first_row": chunk.first_row,
            "row_count": chunk.row_count,
            "payload": chunk.payload,
        }
        await connection.execute(statements.ADD_CHUNK, parameters)


def _first(rows: Sequence[DictRow]) -> StoredResult | None:
    return _result(rows[0]) if rows else None


def _cursor(row: DictRow) -> Cursor:
    key = row["sort_key"]
    return [key.isoformat() if isinstance(key, datetime) else repr(key), row["result_id"]]


def _result(row: DictRow) -> StoredResult:
    return StoredResult(
        ResultKey(row["tenant_id"], row["result_id"]),
        row["save_id"],
        bytes(row["header"]),
        row["stored_bytes"],
        row["create_time"],
        row["expire_time"],
        row["pinned"],
        row["last_read_time"],
        row["read_time"],
    )
