"""Policies, audit and sweeps in Postgres; sweeps skip what others hold, so replicas never wait for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from psycopg.rows import DictRow

from services.results import retention_statements as statements
from services.results.retention import AuditListing, AuditRecord, Policy, Preview, Reason, Taken, Usage
from services.results.saving import ResultKey
from services.results.store import run
from services.results.sweeping import BATCH, BATCH_BYTES, Backlog, OrphanScan
from services.runtime.database import Database

_BEGINNING = "-infinity"
_A_BATCH = {"limit": BATCH, "most_bytes": BATCH_BYTES}


class PostgresRetentionStore:
    """Retention of all tenants; what a tenant did not set is the service's."""

    def __init__(self, database: Database, service_policy: Policy, *, audit_keep_s: float) -> None:
        self._database = database
        self._service = service_policy
        self._audit_keep_s = audit_keep_s

    async def policy(self, tenant: str) -> Policy:
        """Return what a tenant set."""
        rows = await self._run(statements.GET_POLICY, tenant=tenant)
        return Policy(**rows[0]) if rows else Policy()

    async def set_policy(self, tenant: str, policy: Policy) -> None:
        """Replace what a tenant set."""
        await self._run(statements.SET_POLICY, tenant=tenant, **asdict(policy))

    async def usage(self, tenant: str) -> Usage:
        """Return what a tenant keeps."""
        [row] = await self._run(statements.USAGE, tenant=tenant)
        return _usage(row)

    async def preview(self, tenant: str, policy: Policy) -> Preview:
        """Return what would go under a policy in effect."""
        async with self._database.driver() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            [row] = await run(connection, statements.PREVIEW, _limits(tenant, policy))
            [usage] = await run(connection, statements.USAGE, {"tenant": tenant})
        taken = {Reason(one["reason"]): (one["results"], one["bytes"]) for one in row["losses"] or ()}
        return Preview(Taken(taken), row["result_ids"], _usage(usage), row["read_time"])

    async def list_audit(self, tenant: str, listing: AuditListing) -> Sequence[AuditRecord]:
        """Return a page of what went, newest first."""
        after_time, after_id = listing.after or (None, None)
        rows = await self._run(
            statements.LIST_AUDIT,
            tenant=tenant,
            reason=None if listing.reason is None else int(listing.reason),
            after_time=after_time,
            after_id=after_id,
            limit=listing.page_size,
        )
        return [AuditRecord(**row | {"reason": Reason(row["reason"])}) for row in rows]

    async def sweep(self, after: datetime | None) -> tuple[Taken, datetime | None]:
        """Delete a batch of results that expired, from an expiry on; return what went and the last expiry."""
        by_time = int(Reason.EXPIRED)
        [row] = await self._run(statements.SWEEP, after=after or _BEGINNING, by_time=by_time, **_A_BATCH)
        taken = {Reason.EXPIRED: (row["results"], row["bytes"])} if row["results"] else {}
        return Taken(taken), row["last_expiry"]

    async def evict(self, tenant: str) -> Taken:
        """Delete a batch of the least recently read results that are beyond the tenant's limits."""
        policy = (await self.policy(tenant)).over(self._service)
        if not policy.limited:
            return Taken()
        async with self._database.driver() as connection:
            [mine] = await run(connection, statements.TRY_LOCK_TENANT, {"tenant": tenant})
            if not mine["locked"]:  # another replica is at it: two would take twice as much
                return Taken()
            rows = await run(connection, statements.EVICT, _limits(tenant, policy) | _A_BATCH)
        return Taken({Reason(row["reason"]): (row["results"], row["bytes"]) for row in rows})

    async def limited_tenants(self) -> Sequence[str]:
        """Return the tenants whose results are limited."""
        return [row["tenant_id"] for row in await self._run(statements.LIMITED_TENANTS, everyone=self._service.limited)]

    async def backlog(self, most: int) -> Backlog:
        """Return what has expired and is still there."""
        [row] = await self._run(statements.BACKLOG, most=most)
        return Backlog(row["results"], row["oldest_s"])

    async def find_orphans(self, after: datetime | None, age_s: float, limit: int) -> OrphanScan:
        """Look at chunks old enough, oldest first."""
        rows = await self._run(statements.FIND_ORPHANS, after=after or _BEGINNING, age_s=age_s, limit=limit)
        orphans = sorted({row["save_id"] for row in rows if row["orphan"]})
        return OrphanScan(len(rows), rows[-1]["create_time"] if rows else None, orphans)

    async def delete_orphans(self, save_ids: Sequence[str]) -> int:
        """Delete the chunks of saves that have no header; return how many."""
        async with self._database.single() as connection:
            cursor = await connection.execute(statements.DELETE_ORPHANS, {"save_ids": list(save_ids)})
            return cursor.rowcount

    async def forget(self, limit: int) -> int:
        """Delete old tombstones and up to `limit` old audit records; return how many records."""
        return len(await self._run(statements.FORGET, keep_s=self._audit_keep_s, limit=limit))

    async def touch(self, keys: Sequence[ResultKey], at_most_every_s: float) -> None:
        """Note that results were read."""
        tenants, result_ids = [key.tenant for key in keys], [key.result_id for key in keys]
        await self._run(statements.TOUCH, tenants=tenants, result_ids=result_ids, at_most_every_s=at_most_every_s)

    async def _run(self, statement: str, **parameters: object) -> Sequence[DictRow]:
        async with self._database.single() as connection:
            return await run(connection, statement, parameters)


def _limits(tenant: str, policy: Policy) -> dict[str, object]:
    return {
        "tenant": tenant,
        "max_results": policy.max_results,
        "max_bytes": policy.max_bytes,
        "by_time": int(Reason.EXPIRED),
        "by_count": int(Reason.MAX_RESULTS),
        "by_bytes": int(Reason.MAX_BYTES),
    }


def _usage(row: DictRow) -> Usage:
    return Usage(row["results"], row["bytes"], row["pinned_results"], row["pinned_bytes"])
