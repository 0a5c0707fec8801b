"""Which finer klines lie inside each kline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from klinecast.types import FloatColumn, KlineColumns, TimeColumn

_NO_TIMES = np.empty(0, np.int64)
_NO_PRICES = np.empty(0, np.float64)


@dataclass(frozen=True, slots=True)
class FinerColumns:
    """Finer prices, and the range [start, end) of the finer klines of each kline; all of length 0 without them."""

    start: TimeColumn
    """First finer kline of each kline."""
    end: TimeColumn
    """One past the last finer kline of each kline."""
    open: FloatColumn
    """Finer opens, quote units."""
    high: FloatColumn
    """Finer highs, quote units."""
    low: FloatColumn
    """Finer lows, quote units."""

    @classmethod
    def of(cls, klines: KlineColumns, finer: KlineColumns | None, span_ms: int) -> Self:
        """Find the finer klines of each kline; a month ends where the next begins, a gap is not part of a kline."""
        if finer is None:
            return cls(_NO_TIMES, _NO_TIMES, _NO_PRICES, _NO_PRICES, _NO_PRICES)
        opens = klines.open_time_ms
        following = np.append(opens[1:], opens[-1] + span_ms)
        ends = np.where(following - opens < 2 * span_ms, following, opens + span_ms)
        start, end = np.searchsorted(finer.open_time_ms, opens), np.searchsorted(finer.open_time_ms, ends)
        return cls(start.astype(np.int64), end.astype(np.int64), finer.open, finer.high, finer.low)
