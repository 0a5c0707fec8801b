"""Results in Postgres: runs the statements and turns rows into domain objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from psycopg.rows import DictRow, dict_row

from services.results import statements
from services.results.keeping import Listing, Swept
from services.results.saving import Chunk, Commit, ResultKey, StaleFenceError, StoredResult
from services.runtime.database import Database, DriverConnection


class PostgresResultStore:
    """All results of all tenants; every call names its tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_chunks(self, save_id: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks that nobody sees yet."""
        async with self._database.driver() as connection:
            await _add(connection, save_id, chunks)

    async def commit(self, commit: Commit, chunks: Sequence[Chunk]) -> tuple[StoredResult, bool]:
        """Store the last chunks and make the result visible; False when the same one was there. StaleFenceError."""
        key = _key(commit.key)
        async with self._database.driver() as connection:
            async with connection.pipeline():
                await connection.execute(statements.LOCK, key)
                cursor = await connection.cursor(row_factory=dict_row).execute(statements.BEFORE_COMMIT, key)
                [before] = await cursor.fetchall()
            if before["checksum"] == commit.checksum:
                return _result((await _run(connection, statements.GET, key))[0]), False
            if commit.fence <= max(before["buried"] or 0, before["fence"] or 0):
                raise StaleFenceError
            parameters = key | {
                "save_id": commit.save_id,
                "fence": commit.fence,
                "checksum": commit.checksum,
                "strategy": commit.strategy,
                "symbols": list(commit.symbols),
                "labels": json.dumps(dict(commit.labels)),
                "statistics": json.dumps(dict(commit.statistics)),
                "header": commit.header,
                "stored_bytes": commit.stored_bytes,
                "ttl_s": commit.ttl_s,
            }
            async with connection.pipeline():
                if before["fence"] is not None:
                    await connection.execute(statements.REMOVE, key)
                await _add(connection, commit.save_id, chunks)
                cursor = await connection.cursor(row_factory=dict_row).execute(statements.COMMIT, parameters)
                await connection.commit()
                [stored] = await cursor.fetchall()
            return _result(stored), True

    async def forget_save(self, save_id: str) -> None:
        """Drop the chunks of a save that did not become a result."""
        async with self._database.single() as connection:
            await _run(connection, statements.FORGET_SAVE, {"save_id": save_id})

    async def get(self, key: ResultKey) -> StoredResult | None:
        """Return a live result."""
        async with self._database.single() as connection:
            return _first(await _run(connection, statements.GET, _key(key)))

    async def list(self, tenant: str, listing: Listing) -> Sequence[StoredResult]:
        """Return a page of live results, newest first."""
        parameters = {
            "tenant": tenant,
            "strategy": listing.strategy or None,
            "symbol": listing.symbol or None,
            "labels": json.dumps(dict(listing.labels)),
            "after_time": listing.after_time,
            "after_id": listing.after_id,
            "limit": listing.page_size,
        }
        async with self._database.single() as connection:
            return [_result(row) for row in await _run(connection, statements.LIST, parameters)]

    async def chunk(self, save_id: str, kind: str, row: int) -> Chunk | None:
        """Return the chunk that holds a row; None when it is gone."""
        async with self._database.single() as connection:
            rows = await _run(connection, statements.CHUNK, {"save_id": save_id, "kind": kind, "row": row})
        if not rows:
            return None
        return Chunk(kind, rows[0]["first_row"], rows[0]["row_count"], bytes(rows[0]["payload"]))

    async def set_ttl(self, key: ResultKey, ttl_s: float, *, extend_only: bool) -> StoredResult | None:
        """Let a live result expire so long from now; with extend_only never sooner than it would."""
        statement = statements.EXTEND if extend_only else statements.SET_TTL
        async with self._database.single() as connection:
            return _first(await _run(connection, statement, {**_key(key), "ttl_s": ttl_s}))

    async def pin(self, key: ResultKey) -> StoredResult | None:
        """Keep a live result until it is unpinned."""
        async with self._database.single() as connection:
            return _first(await _run(connection, statements.PIN, _key(key)))

    async def delete(self, key: ResultKey, tombstone_fence: int) -> bool:
        """Delete a result and refuse late saves up to a fence; return whether there was a live one."""
        async with self._database.driver() as connection:
            await _run(connection, statements.LOCK, _key(key))
            if tombstone_fence > 0:
                await _run(connection, statements.BURY, {**_key(key), "fence": tombstone_fence})
            rows = await _run(connection, statements.REMOVE, _key(key))
        return bool(rows and rows[0]["live"])

    async def sweep(self, limit: int) -> Swept:
        """Delete up to `limit` expired results; any number of sweepers may do so at once, each result goes once."""
        async with self._database.single() as connection:
            row = (await _run(connection, statements.SWEEP, {"limit": limit}))[0]
        return Swept(row["results"], row["bytes"])

    async def sweep_orphans(self, age_s: float, limit: int) -> int:
        """Delete chunks of saves that never became a result; return how many."""
        async with self._database.driver() as connection:
            return len(await _run(connection, statements.SWEEP_ORPHANS, {"age_s": age_s, "limit": limit}))


def _key(key: ResultKey) -> dict[str, object]:
    return {"tenant": key.tenant, "result_id": key.result_id}


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


async def _run(connection: DriverConnection, statement: str, parameters: Mapping[str, object]) -> Sequence[DictRow]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


def _first(rows: Sequence[DictRow]) -> StoredResult | None:
    return _result(rows[0]) if rows else None


def _result(row: DictRow) -> StoredResult:
    return StoredResult(
        ResultKey(row["tenant_id"], row["result_id"]),
        row["save_id"],
        bytes(row["header"]),
        row["stored_bytes"],
        row["create_time"],
        row["expire_time"],
        row["pinned"],
        row["read_time"],
    )
