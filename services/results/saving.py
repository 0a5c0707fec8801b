"""What a save is: chunks that arrive one by one, and the commit that makes them a result, all of it or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from klinecast.convert.violations import Violations
from services.runtime.ids import new_id

FLUSH_BYTES = 2 * 1024 * 1024
"""Chunks are written when so many bytes have arrived: the memory a save takes."""
KINDS = ("trades", "fills", "equity")


@dataclass(frozen=True, slots=True)
class ResultKey:
    """Whose result and which."""

    tenant: str
    result_id: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one kind, packed."""

    kind: str
    first_row: int
    row_count: int
    payload: bytes
    packed: bool = True
    """False: rows of release 0.1, as they were sent."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """The row of a result."""

    key: ResultKey
    save_id: str
    header: bytes
    stored_bytes: int
    create_time: datetime
    expire_time: datetime
    pinned: bool
    last_read_time: datetime
    """Exact to a minute."""
    read_time: datetime
    """When it was read, by the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What makes a save a result."""

    key: ResultKey
    save_id: str
    fence: int
    ttl_s: float | None
    """Moved to the nearer bound of the tenant's policy; None: the policy's default."""
    checksum: str
    header: bytes
    strategy: str
    series: Sequence[Mapping[str, str]]
    """Each with venue, market_type, symbol and interval."""
    start_time: datetime | None
    end_time: datetime | None
    labels: Mapping[str, str]
    statistics: Mapping[str, float]
    """Numbers of the header among them: all that one may order and filter by."""
    row_count: int
    """Of all kinds: what the chunks add up to."""
    stored_bytes: int


class StaleFenceError(Exception):
    """A newer attempt saved or may save this result."""


class SaveStore(Protocol):
    """What a save needs from the database."""

    async def add_chunks(self, save_id: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks that nobody sees yet."""

    async def commit(self, commit: Commit, chunks: Sequence[Chunk]) -> tuple[StoredResult, bool]:
        """Store the last chunks and make the result visible; False when the same one was there.

        StaleFenceError; Unavailable when chunks stored before are gone.
        """

    async def forget_save(self, key: ResultKey, save_id: str) -> None:
        """Drop the chunks of a save that did not become a result."""


@dataclass(slots=True)
class Save:
    """A save in progress, in bounded memory."""

    store: SaveStore
    save_id: str = field(default_factory=new_id)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    stored_bytes: int = 0
    flushed: bool = False
    _pending: list[Chunk] = field(default_factory=list)
    _pending_bytes: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    async def add(self, kind: str, row_count: int, sent: bytes, payload: bytes) -> None:
        """Take one chunk: the bytes that were sent, for the checksum, and what of them is stored."""
        self._digest.update(sent)
        self._pending.append(Chunk(kind, self.rows[kind], row_count, payload))
        self.rows[kind] += row_count
        self.stored_bytes += len(payload)
        self._pending_bytes += len(payload)
        if self._pending_bytes >= FLUSH_BYTES:
            self.flushed = True
            chunks, self._pending, self._pending_bytes = self._pending, [], 0
            await self.store.add_chunks(self.save_id, chunks)

    def check(self, wanted_rows: Mapping[str, int], checksum: str) -> str:
        """Compare what arrived with what was announced; return the checksum. Raises InvalidArgument."""
        found = Violations()
        for kind, rows in self.rows.items():
            singular = {"trades": "trade_rows", "fills": "fill_rows", "equity": "equity_rows"}[kind]
            found.check(rows == wanted_rows[kind], f"begin.header.{singular}", f"is {wanted_rows[kind]}, {rows} came")
        found.check(self._digest.hexdigest() == checksum, "commit.checksum", "does not match the chunks that came")
        found.raise_if_any(reason="CHECKSUM_MISMATCH")
        return checksum

    async def commit(self, commit: Commit) -> tuple[StoredResult, bool]:
        """Make it visible."""
        return await self.store.commit(commit, self._pending)
