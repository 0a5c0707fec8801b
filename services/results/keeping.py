"""Keeping: what is listed, read and retained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from klinecast.errors import Aborted
from services.results.cache import PayloadCache
from services.results.retention import Policy
from services.results.saving import Chunk, ResultKey, SaveStore, StoredResult
from services.runtime.paging import Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which results to list and in which order; None and empty are no filter."""

    strategy: str = ""
    series: Mapping[str, str] = field(default_factory=dict)
    """Some of venue, market_type, symbol and interval."""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_from: datetime | None = None
    created_before: datetime | None = None
    range_from: datetime | None = None
    range_before: datetime | None = None
    bounds: Sequence[Mapping[str, str | float | None]] = ()
    """Each with name, min and max of a statistic."""
    order_by: str = ""
    """A statistic; empty: create_time."""
    ascending: bool = False
    page_size: int = 50
    after: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list."""

    results: Sequence[StoredResult]
    next_cursor: Cursor | None
    """Sort key and id of the last one, None on the last page."""
    read_time: datetime


class PinnedTooMuchError(Exception):
    """What is pinned would be beyond the tenant's limits."""


class ResultStore(SaveStore, Protocol):
    """What the service needs from its database."""

    async def get(self, key: ResultKey) -> StoredResult | None:
        """Return a live result."""

    async def get_several(self, tenant: str, result_ids: Sequence[str]) -> Sequence[StoredResult]:
        """Return those that are live, all as of one instant."""

    async def check(self, tenant: str, result_ids: Sequence[str]) -> tuple[Sequence[str], datetime]:
        """Return the ids of those that are live, and the instant."""

    async def list(self, tenant: str, listing: Listing) -> Page:
        """Return a page of live results."""

    async def chunk(self, save_id: str, kind: str, row: int) -> Chunk | None:
        """Return the chunk that holds a row; None when it is gone."""

    async def set_ttl(self, key: ResultKey, ttl_s: float, *, extend_only: bool) -> StoredResult | None:
        """Let a live result expire so long from now; with extend_only never sooner than it would."""

    async def pin(self, key: ResultKey, policy: Policy) -> StoredResult | None:
        """Keep a live result until it is unpinned. PinnedTooMuchError."""

    async def delete(self, key: ResultKey, tombstone_fence: int) -> bool:
        """Delete a result and refuse late saves up to a fence; return whether there was a live one."""


async def read_chunks(
    store: ResultStore, cache: PayloadCache, result: StoredResult, kind: str, start_row: int, total_rows: int
) -> AsyncIterator[Chunk]:
    """Yield the chunks of a result from a row on; one that goes away meanwhile ends the read ABORTED, never short."""
    row = start_row
    while row < total_rows:
        chunk = await cache.load(result.save_id, kind, row, store.chunk)
        if chunk is None or row >= chunk.first_row + chunk.row_count:
            raise Aborted("the result was deleted while it was read", reason="RESULT_NOT_FOUND")
        yield chunk
        row = chunk.first_row + chunk.row_count
