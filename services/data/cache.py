"""Blocks in memory within a byte budget, least recently used out first; never stale: the key says what was read.

A block is kept as its columns in the byte order of the wire, so a message is cut out of it without encoding anything.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from klinecast.columns import Column

Columns = Mapping[str, Column]
_REMEMBERED = 16_384
"""Blocks whose first, partial use is remembered."""


@dataclass(frozen=True, slots=True)
class BlockKey:
    """What a block held: rewrites move its rewrite_revision, appends its kline_count."""

    series_id: int
    """Id of the series."""
    block: int
    """Number of the block."""
    rewrite_revision: int
    """Its rewrite_revision."""
    kline_count: int
    """Klines it held."""
    columns: tuple[str, ...]
    """Columns that were read."""


class BlockCache:
    """Keeps whole blocks; a budget of 0 keeps none."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._blocks: OrderedDict[BlockKey, Columns] = OrderedDict()
        self._size = 0
        self._reading: dict[BlockKey, asyncio.Task[Columns]] = {}
        self._seen: OrderedDict[BlockKey, None] = OrderedDict()

    @property
    def pending(self) -> Collection[asyncio.Task[Columns]]:
        """Loads that have not ended."""
        return self._reading.values()

    @property
    def size_bytes(self) -> int:
        """Bytes of the columns kept."""
        return self._size

    def get(self, key: BlockKey) -> Columns | None:
        """Return a block and count it as used."""
        columns = self._blocks.get(key)
        if columns is not None:
            self._blocks.move_to_end(key)
        return columns

    def put(self, key: BlockKey, columns: Columns) -> None:
        """Keep a block; forget the least recently used ones beyond the budget."""
        size = _size_of(columns)
        if size > self._budget or key in self._blocks:
            return
        self._blocks[key] = columns
        self._size += size
        while self._size > self._budget:
            _, oldest = self._blocks.popitem(last=False)
            self._size -= _size_of(oldest)

    async def read(self, key: BlockKey, load: Callable[[], Coroutine[Any, Any, Columns]]) -> Columns:
        """Load a block and keep it; who asks for it meanwhile waits for the same load."""
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(load())
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)

    def is_wanted_again(self, key: BlockKey) -> bool:
        """Tell whether part of this block was asked for before; remember that it was now."""
        again = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return again

    def _finish(self, key: BlockKey, task: asyncio.Task[Columns]) -> None:
        del self._reading[key]
        if not task.cancelled() and task.exception() is None:
            self.put(key, task.result())


def _size_of(columns: Columns) -> int:
    return sum(values.nbytes for values in columns.values())
