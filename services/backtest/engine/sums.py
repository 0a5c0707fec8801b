"""Kernels of the statistics: sums in one fixed order, so that every machine of one architecture gives the same bits.

Values that are NaN are left out; NaN is the answer where there are too few.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from klinecast.types import FloatColumn, TimeColumn
from services.backtest.engine.jit import compiled

_F, _I = numba.float64, numba.int64
_FS, _IS = numba.float64[::1], numba.int64[::1]
_PAIR = numba.types.UniTuple(numba.float64, 2)  # type: ignore[no-untyped-call]
_TRIPLE = numba.types.UniTuple(numba.float64, 3)  # type: ignore[no-untyped-call]
_FOUR = numba.types.UniTuple(numba.float64, 4)  # type: ignore[no-untyped-call]

DAY_MS = 86_400_000


@compiled(_PAIR(_FS, _F))
def mean_and_squares(values: FloatColumn, shift: float) -> tuple[float, float]:
    """Return the mean of the values less shift, and the sum of squares about it."""
    total, count = 0.0, 0
    for value in values:
        if not math.isnan(value):
            total += value - shift
            count += 1
    if count == 0:
        return np.nan, np.nan
    mean, squares = total / count, 0.0
    for value in values:
        if not math.isnan(value):
            squares += (value - shift - mean) ** 2
    return mean, squares


@compiled(_I(_FS))
def count_values(values: FloatColumn) -> int:
    """Return how many values are not NaN."""
    count = 0
    for value in values:
        if not math.isnan(value):
            count += 1
    return count


@compiled(_TRIPLE(_FS, _F))
def gains_losses_downside(values: FloatColumn, shift: float) -> tuple[float, float, float]:
    """Return sum max(v, 0), sum max(-v, 0) and sum min(v, 0)^2 of the values less shift."""
    gains, losses, downside = 0.0, 0.0, 0.0
    for value in values:
        excess = value - shift
        if excess > 0.0:
            gains += excess
        elif excess < 0.0:
            losses -= excess
            downside += excess * excess
    return gains, losses, downside


@compiled(_PAIR(_FS, _F))
def tail(values: FloatColumn, share: float) -> tuple[float, float]:
    """Return the quantile (linear between neighbours) and the mean of the values at or below it."""
    ordered = np.sort(values[~np.isnan(values)])
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


@compiled(numba.types.UniTuple(_FS, 2)(_IS, _FS, _FS, _F, _F, _I, _I, _I))  # type: ignore[no-untyped-call]
def sampled_returns(
    open_ms: TimeColumn, equity: FloatColumn, closes: FloatColumn, initial: float, first_price: float,
    span_ms: int, end_ms: int, daily: int,
) -> tuple[FloatColumn, FloatColumn]:  # fmt: skip
    """Return the returns of sampled equity and of the price; the first sample is initial, the last at end_ms.

    daily = 1 samples at each 00:00 UTC after the first open_time, 0 at each kline. Nothing after equity is gone.
    """
    n = len(open_ms)
    size = (end_ms - open_ms[0]) // DAY_MS + 2 if daily == 1 else n
    returns, benchmark = np.empty(size), np.empty(size)
    count, last, last_price, at = 0, initial, first_price, -1
    boundary = (open_ms[0] // DAY_MS + 1) * DAY_MS
    while at < n - 1 and last > 0.0:
        if daily == 1:
            if boundary < end_ms:
                while at < n - 1 and open_ms[at + 1] + span_ms <= boundary:
                    at += 1
            else:
                at = n - 1
            boundary += DAY_MS
        else:
            at += 1
        now = initial if at < 0 else equity[at]
        price = first_price if at < 0 else closes[at]
        returns[count], benchmark[count] = now / last - 1.0, price / last_price - 1.0
        last, last_price = now, price
        count += 1
    return returns[:count], benchmark[:count]


@compiled(_TRIPLE(_IS, _FS, _F, _I))
def drawdowns(open_ms: TimeColumn, equity: FloatColumn, initial: float, span_ms: int) -> tuple[float, float, float]:
    """Return (largest drawdown <= 0, longest ms from a peak to its recovery or the end, mean squared drawdown)."""
    peak, peak_ms = initial, open_ms[0]
    largest, squares, longest = 0.0, 0.0, 0
    under = False
    for i in range(len(equity)):
        now_ms = open_ms[i] + span_ms
        if equity[i] >= peak:
            if under:
                longest = max(longest, now_ms - peak_ms)
            peak, peak_ms, under = equity[i], now_ms, False
            continue
        under = True
        drawdown = equity[i] / peak - 1.0
        largest = min(largest, drawdown)
        squares += drawdown * drawdown
    if under:
        longest = max(longest, open_ms[-1] + span_ms - peak_ms)
    return largest, float(longest), squares / len(equity)


@compiled(_TRIPLE(_FS, _FS, _FS))
def exposure(equity: FloatColumn, position: FloatColumn, closes: FloatColumn) -> tuple[float, float, float]:
    """Return (share of klines with a position, mean |position value| / equity, mean equity)."""
    held, share, total = 0, 0.0, 0.0
    for i in range(len(equity)):
        total += equity[i]
        if position[i] != 0.0:
            held += 1
            if equity[i] > 0.0:
                share += abs(position[i] * closes[i]) / equity[i]
    return held / len(equity), share / len(equity), total / len(equity)


@compiled(_F(_FS, _FS))
def dot(values: FloatColumn, others: FloatColumn) -> float:
    """Return the sum of products."""
    total = 0.0
    for i in range(len(values)):
        total += values[i] * others[i]
    return total
