"""Blocks in memory within a byte budget, least recently used out first; never stale: the key says what was read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from klinecast.columns import Column


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
        self._blocks: OrderedDict[BlockKey, Mapping[str, Column]] = OrderedDict()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the columns kept."""
        return self._size

    def get(self, key: BlockKey) -> Mapping[str, Column] | None:
        """Return a block and count it as used."""
        columns = self._blocks.get(key)
        if columns is not None:
            self._blocks.move_to_end(key)
        return columns

    def put(self, key: BlockKey, columns: Mapping[str, Column]) -> None:
        """Keep a block; forget the least recently used ones beyond the budget."""
        if _size_of(columns) > self._budget or key in self._blocks:
            return
        self._blocks[key] = columns
        self._size += _size_of(columns)
        while self._size > self._budget:
            _, oldest = self._blocks.popitem(last=False)
            self._size -= _size_of(oldest)


def _size_of(columns: Mapping[str, Column]) -> int:
    return sum(values.nbytes for values in columns.values())
