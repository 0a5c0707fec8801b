"""Computes indicators chunk by chunk, each with the history its values need. Knows no SQL and no wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import numpy as np

from klinecast.columns import Column
from services.data.cache import Columns
from services.data.indicators.catalogue import SUMS, Computation

_FIRST_CHUNK, _CHUNK = 8_192, 65_536


def history_of(computations: Sequence[Computation]) -> int:
    """Return how many klines before a range all of the values need."""
    return max((one.history for one in computations), default=0)


def has_sums(computations: Sequence[Computation]) -> bool:
    """Tell whether some values add up from the first kline of the series on."""
    return any(one.indicator.name in SUMS for one in computations)


async def chunks(blocks: AsyncIterator[Columns], history: int) -> AsyncGenerator[tuple[Columns, int], None]:
    """Yield klines in growing chunks, history first, and how many of them were in the chunk before."""
    held: list[Columns] = []
    rows, done, size = 0, 0, _FIRST_CHUNK
    async for columns in blocks:
        held.append(columns)
        rows += len(columns["open_time_ms"])
        if rows - done >= size:
            joined = join(held)
            yield joined, done
            done = rows = min(history + 1, rows)  # one more: sums go on from the last kline
            held = [{name: values[-rows:] for name, values in joined.items()}]
            size = min(2 * size, _CHUNK)
    if rows > done:
        yield join(held), done


def join(stretches: Sequence[Columns]) -> Columns:
    """Return stretches as one."""
    return {name: np.concatenate([one[name] for one in stretches]) for name in stretches[0]}


class Computer:
    """Computes chunk after chunk; sums go on where the chunk before ended."""

    def __init__(self, computations: Sequence[Computation]) -> None:
        self._computations = computations
        self._sums: dict[str, float] = {}
        self.has_sums = has_sums(computations)

    def compute(self, klines: Columns, done: int) -> dict[str, Column]:
        """Return every column of a chunk whose first `done` klines ended the chunk before."""
        found: dict[str, Column] = {}
        for one in self._computations:
            outputs = one.compute(klines)
            if one.indicator.name in SUMS:
                outputs = [self._carried(one.indicator.column, outputs[0], done)]
            found |= dict(zip(one.columns, outputs, strict=True))
        return found

    def _carried(self, label: str, values: Column, done: int) -> Column:
        if done:
            values = values - values[done - 1] + self._sums[label]
        self._sums[label] = float(values[-1])
        return values
