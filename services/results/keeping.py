"""Keeping and letting go: what is listed, read, retained and swept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from klinecast.errors import Aborted
from services.results.cache import PayloadCache
from services.results.saving import Chunk, ResultKey, SaveStore, StoredResult

ORPHAN_AGE_S = 3600.0
"""Chunks of a save older than this that is no result are swept."""
_BATCH = 500
_ORPHANS_EVERY = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which results to list, newest first."""

    strategy: str = ""
    symbol: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    page_size: int = 50
    after_time: datetime | None = None
    after_id: str | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    """What one batch of a sweep deleted."""

    results: int
    bytes: int


class ResultStore(SaveStore, Protocol):
    """What the service needs from its database."""

    async def get(self, key: ResultKey) -> StoredResult | None:
        """Return a live result."""

    async def list(self, tenant: str, listing: Listing) -> Sequence[StoredResult]:
        """Return a page of live results, newest first."""

    async def chunk(self, save_id: str, kind: str, row: int) -> Chunk | None:
        """Return the chunk that holds a row; None when it is gone."""

    async def set_ttl(self, key: ResultKey, ttl_s: float, *, extend_only: bool) -> StoredResult | None:
        """Let a live result expire so long from now; with extend_only never sooner than it would."""

    async def pin(self, key: ResultKey) -> StoredResult | None:
        """Keep a live result until it is unpinned."""

    async def delete(self, key: ResultKey, tombstone_fence: int) -> bool:
        """Delete a result and refuse late saves up to a fence; return whether there was a live one."""

    async def sweep(self, limit: int) -> Swept:
        """Delete up to `limit` expired results."""

    async def sweep_orphans(self, age_s: float, limit: int) -> int:
        """Delete chunks of saves that never became a result; return how many."""


async def read_chunks(
    store: ResultStore, cache: PayloadCache, result: StoredResult, kind: str, start_row: int, total_rows: int
) -> AsyncIterator[Chunk]:
    """Yield the chunks of a result from a row on; one that goes away meanwhile ends the read ABORTED, never short."""
    row = start_row
    while row < total_rows:
        chunk = cache.get(result.save_id, kind, row)
        if chunk is None:
            chunk = await store.chunk(result.save_id, kind, row)
            if chunk is None or row >= chunk.first_row + chunk.row_count:
                raise Aborted("the result was deleted while it was read", reason="RESULT_NOT_FOUND")
            cache.put(result.save_id, chunk)
        yield chunk
        row = chunk.first_row + chunk.row_count


class Sweeper:
    """Deletes what has expired, in bounded batches; one per process, any number at once."""

    def __init__(self, store: ResultStore, *, every_s: float, on_swept: Callable[[Swept], None]) -> None:
        self._store = store
        self._every_s = every_s
        self._on_swept = on_swept

    async def run(self) -> None:
        """Sweep until cancelled; a turn that fails is tried again."""
        turn = 0
        while True:
            try:
                await self._sweep()
                if turn % _ORPHANS_EVERY == 0:
                    await self._store.sweep_orphans(ORPHAN_AGE_S, _BATCH)
            except Exception:  # the database is away: the next turn tries again
                pass
            turn += 1
            await asyncio.sleep(self._every_s)

    async def _sweep(self) -> None:
        while True:
            swept = await self._store.sweep(_BATCH)
            self._on_swept(swept)
            if swept.results < _BATCH:
                return
