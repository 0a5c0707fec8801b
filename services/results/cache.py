"""Payloads of results that are read often, within a budget of bytes and time.

It holds immutable chunks only and knows neither tenants nor expiry: every read asks the database for the header first.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from services.results.saving import Chunk

_Key = tuple[str, str]
ENTRY_BYTES = 800
"""What a chunk takes beside its payload: objects, keys and places in tables (measured). Chunks of 96 bytes would take
eight times the budget."""
Read = Callable[[str, str, int], Awaitable[Chunk | None]]
"""Reads the chunk of a save and kind that holds a row."""


class PayloadCache:
    """Least recently used chunks leave first."""

    def __init__(self, budget_bytes: int, ttl_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._chunks: OrderedDict[_Key, tuple[float, dict[int, Chunk]]] = OrderedDict()
        self._bytes = 0
        self._reads: dict[tuple[str, str, int], asyncio.Task[Chunk | None]] = {}
        self.hits = 0
        self.misses = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all chunks held; never above the budget."""
        return self._bytes

    async def load(self, save_id: str, kind: str, row: int, read: Read) -> Chunk | None:
        """Return the chunk that holds a row, read once for all who ask meanwhile; None when it is gone."""
        held = self.get(save_id, kind, row)
        if held is not None:
            return held
        key = (save_id, kind, row)
        reading = self._reads.get(key)
        if reading is None:
            reading = self._reads[key] = asyncio.ensure_future(self._read(key, read))
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waits hears of it
        return await asyncio.shield(reading)

    async def _read(self, key: tuple[str, str, int], read: Read) -> Chunk | None:
        try:
            chunk = await read(*key)
            if chunk is not None:
                self.put(key[0], chunk)
            return chunk
        finally:
            del self._reads[key]

    def get(self, save_id: str, kind: str, row: int) -> Chunk | None:
        """Return the chunk that holds a row, if it is here."""
        self._expire()
        entry = self._chunks.get((save_id, kind))
        chunks = entry[1].values() if entry is not None else ()
        chunk = next((one for one in chunks if one.first_row <= row < one.first_row + one.row_count), None)
        if chunk is None:
            self.misses += 1
            return None
        self.hits += 1
        self._touch((save_id, kind))
        return chunk

    def put(self, save_id: str, chunk: Chunk) -> None:
        """Keep a chunk, making room for it; one beyond the budget is not kept."""
        if _size(chunk) > self._budget:
            return
        key = (save_id, chunk.kind)
        _, held = self._chunks.setdefault(key, (0.0, {}))
        if chunk.first_row not in held:
            held[chunk.first_row] = chunk
            self._bytes += _size(chunk)
        self._touch(key)
        while self._bytes > self._budget:
            self._drop(next(iter(self._chunks)))

    def _touch(self, key: _Key) -> None:
        self._chunks[key] = (self._clock() + self._ttl_s, self._chunks[key][1])
        self._chunks.move_to_end(key)

    def _expire(self) -> None:
        now = self._clock()
        while self._chunks and next(iter(self._chunks.values()))[0] <= now:
            self._drop(next(iter(self._chunks)))

    def _drop(self, key: _Key) -> None:
        _, chunks = self._chunks.pop(key)
        self._bytes -= sum(map(_size, chunks.values()))


def _size(chunk: Chunk) -> int:
    return len(chunk.payload) + ENTRY_BYTES
