"""Kernels of the statistics: sums in one fixed order, so that every machine of one architecture gives the same bits.

Values that are NaN are left out; NaN is the answer where there are too few.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from klinecast.types import FloatColumn, TimeColumn
from services.backtest.engine.jit import compiled, leaf
from services.backtest.engine.records import FILLS, TRADES, Fill, Rows, Trade

_F, _I = numba.float64, numba.int64
_FS, _IS = numba.float64[::1], numba.int64[::1]
_PAIR = numba.types.UniTuple(numba.float64, 2)  # type: ignore[no-untyped-call]
_TRIPLE = numba.types.UniTuple(numba.float64, 3)  # type: ignore[no-untyped-call]
_SIX = numba.types.UniTuple(numba.float64, 6)  # type: ignore[no-untyped-call]
_FOUR = numba.types.UniTuple(numba.float64, 4)  # type: ignore[no-untyped-call]

DAY_MS = 86_400_000
END = 6


@compiled(_TRIPLE(_FS, _F))
def moments(values: FloatColumn, shift: float) -> tuple[float, float, float]:
    """Return the count of the values, the mean of the values less shift, and the sum of squares about it."""
    total, count = 0.0, 0
    for value in values:
        if not math.isnan(value):
            total += value - shift
            count += 1
    if count == 0:
        return 0.0, np.nan, np.nan
    mean, squares = total / count, 0.0
    for value in values:
        if not math.isnan(value):
            squares += (value - shift - mean) ** 2
    return float(count), mean, squares


@compiled(_SIX(_FS))
def wins_and_losses(values: FloatColumn) -> tuple[float, float, float, float, float, float]:
    """Return (count above 0, their sum, the largest, count below 0, their sum, the smallest); 0 where there is none."""
    wins, won, largest, losses, lost, smallest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for value in values:
        if value > 0.0:
            wins += 1.0
            won += value
            largest = max(largest, value)
        elif value < 0.0:
            losses += 1.0
            lost += value
            smallest = min(smallest, value)
    return wins, won, largest, losses, lost, smallest


@compiled(_FOUR(_FS, _F))
def gains_losses_downside(values: FloatColumn, shift: float) -> tuple[float, float, float, float]:
    """Return the count of the values, and sum max(v, 0), sum max(-v, 0), sum min(v, 0)^2 of them less shift."""
    count, gains, losses, downside = 0, 0.0, 0.0, 0.0
    for value in values:
        if not math.isnan(value):
            count += 1
        excess = value - shift
        if excess > 0.0:
            gains += excess
        elif excess < 0.0:
            losses -= excess
            downside += excess * excess
    return float(count), gains, losses, downside


@compiled(_PAIR(_FS, _F))
def tail(ordered: FloatColumn, share: float) -> tuple[float, float]:
    """Return the quantile (linear between neighbours) of ascending values and the mean of those at or below it."""
    if len(ordered) < 2:
        return np.nan, np.nan
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    weight = place - below
    quantile = ordered[below]
    if weight > 0.0:
        quantile += weight * (ordered[below + 1] - ordered[below])
    total, count = 0.0, 0
    for value in ordered:
        if value > quantile:
            break
        total += value
        count += 1
    return quantile, total / count


@compiled(_FOUR(_FS, _FS))
def covariance(values: FloatColumn, others: FloatColumn) -> tuple[float, float, float, float]:
    """Return (means of both, covariance sum, squares of others) over the places where both are present."""
    total, other_total, count = 0.0, 0.0, 0
    for i in range(len(values)):
        if not (math.isnan(values[i]) or math.isnan(others[i])):
            total += values[i]
            other_total += others[i]
            count += 1
    if count < 2:
        return np.nan, np.nan, np.nan, np.nan
    mean, other_mean, products, squares = total / count, other_total / count, 0.0, 0.0
    for i in range(len(values)):
        if not (math.isnan(values[i]) or math.isnan(others[i])):
            products += (values[i] - mean) * (others[i] - other_mean)
            squares += (others[i] - other_mean) ** 2
    return mean, other_mean, products / (count - 1), squares / (count - 1)


@compiled(_F(_FS))
def compounded(values: FloatColumn) -> float:
    """Return the product of 1 + value."""
    product = 1.0
    for value in values:
        if not math.isnan(value):
            product *= 1.0 + value
    return product


@leaf
def last_closed(open_ms: TimeColumn, at: int, latest_ms: int) -> int:
    """Return the last place, `at` or later, that opens at latest_ms or before; -1 before the first."""
    low, high = at, len(open_ms) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if open_ms[middle] <= latest_ms:
            low = middle
        else:
            high = middle - 1
    return low


@compiled(_I(_IS, _FS, _FS, _F, _F, _I, _I, _I, _FS, _FS))
def sampled_returns(
    open_ms: TimeColumn, equity: FloatColumn, closes: FloatColumn, initial: float, first_price: float,
    span_ms: int, end_ms: int, daily: int, returns: FloatColumn, benchmark: FloatColumn,
) -> int:  # fmt: skip
    """Write the returns of sampled equity and of the price, and return how many there are.

    The first sample is initial, the last is at end_ms. daily = 1 samples at each 00:00 UTC after the first open_time, 0
    at each kline. Nothing after equity is gone. Room is needed for a sample a day and two more, or for one a kline.
    """
    n = len(open_ms)
    count, last, last_price, at = 0, initial, first_price, -1
    boundary = (open_ms[0] // DAY_MS + 1) * DAY_MS
    while at < n - 1 and last > 0.0:
        if daily == 1:
            at = last_closed(open_ms, at, boundary - span_ms) if boundary < end_ms else n - 1
            boundary += DAY_MS
        else:
            at += 1
        now = initial if at < 0 else equity[at]
        price = first_price if at < 0 else closes[at]
        returns[count], benchmark[count] = now / last - 1.0, price / last_price - 1.0
        last, last_price = now, price
        count += 1
    return count


@compiled(_TRIPLE(_IS, _FS, _F, _I))
def drawdowns(open_ms: TimeColumn, equity: FloatColumn, initial: float, span_ms: int) -> tuple[float, float, float]:
    """Return (largest drawdown <= 0, longest ms from a peak to its recovery or the end, mean squared drawdown)."""
    peak, peak_ms = initial, open_ms[0]
    largest, longest, squares = 0.0, 0, 0.0
    i, n = 0, len(equity)
    while i < n:
        start, lowest, share = i, peak, 1.0 / peak
        while i < n and equity[i] < peak:
            lowest = equity[i] if equity[i] < lowest else lowest
            drawdown = equity[i] * share - 1.0
            squares += drawdown * drawdown
            i += 1
        largest = min(largest, lowest / peak - 1.0)
        now_ms = open_ms[min(i, n - 1)] + span_ms
        if i > start:
            longest = max(longest, now_ms - peak_ms)
        if i < n:
            peak, peak_ms = equity[i], now_ms
            i += 1
    return largest, float(longest), squares / n


@compiled(numba.void(FILLS, _I, _F, _FS))
def positions(fills: Rows[Fill], first_index: int, quantity: float, held: FloatColumn) -> None:
    """Write the quantity held at each close, from the one held before the first; close_at_end comes after the last."""
    start = 0
    for at in range(len(fills) + 1):
        end = len(held)
        if at < len(fills) and fills[at].reason != END:
            end = fills[at].kline_index - first_index
        held[start:end] = quantity
        start = end
        if at < len(fills):
            quantity += fills[at].side * fills[at].quantity


@compiled(_TRIPLE(_FS, _FS, FILLS, _I, _F))
def exposure(
    equity: FloatColumn, closes: FloatColumn, fills: Rows[Fill], first_index: int, quantity: float
) -> tuple[float, float, float]:
    """Return (share of klines with a position, mean |position value| / equity, mean equity).

    The position is followed along the fills, from the quantity held before the first kline.
    """
    held, start = 0, 0
    share, total = 0.0, 0.0
    for at in range(len(fills) + 1):
        end = len(equity)
        if at < len(fills) and fills[at].reason != END:  # which comes after the last close
            end = fills[at].kline_index - first_index
        for i in range(start, end):
            total += equity[i]
        if quantity != 0.0:
            held += end - start
            for i in range(start, end):
                if equity[i] > 0.0:
                    share += abs(quantity * closes[i]) / equity[i]
        start = end
        if at < len(fills):
            quantity += fills[at].side * fills[at].quantity
    return held / len(equity), share / len(equity), total / len(equity)


@compiled(_F(TRADES, _IS, _I))
def holding_ms(trades: Rows[Trade], open_ms: TimeColumn, first_index: int) -> float:
    """Return the sum of the times between entry and exit klines; an entry before the first kline counts from it."""
    total = 0
    for at in range(len(trades)):
        total += open_ms[trades[at].exit_index - first_index] - open_ms[max(trades[at].entry_index - first_index, 0)]
    return float(total)


@compiled(_F(_FS))
def total(values: FloatColumn) -> float:
    """Return the sum of the values, one after another."""
    found = 0.0
    for value in values:
        found += value
    return found


@compiled(_F(_FS, _FS))
def dot(values: FloatColumn, others: FloatColumn) -> float:
    """Return the sum of products."""
    total = 0.0
    for i in range(len(values)):
        total += values[i] * others[i]
    return total
