"""Kernels of averages: window means that do not drift, EMA and Wilder smoothing with TA-Lib's seeds.

Each takes up where it was left: `carry` is the memory between two calls and is written to.
"""

from __future__ import annotations

import numba
import numpy as np

from klinecast.types import FloatColumn
from services.backtest.engine.jit import compiled, leaf

TIE = 1e-12
"""Lines closer than this share of a scale are equal."""

_I, _F, _FS = numba.int64, numba.float64, numba.float64[::1]


@leaf
def add_exactly(high: float, low: float, value: float) -> tuple[float, float]:
    """Add a value to the unevaluated sum high + low, low being what high lost (Knuth's two-sum, Kahan-Babuska sums).

    Neither part waits for the other, which is what an addition after an addition costs.
    """
    total = high + value
    part = total - high
    return total, low + ((high - (total - part)) + (value - part))


@compiled(numba.void(_FS, _I, _I, _FS, _FS))
def window_means(values: FloatColumn, first: int, period: int, carry: FloatColumn, means: FloatColumn) -> None:
    """Write the mean of the last `period` values for each index from first on; NaN where there are fewer.

    carry = [sum, its low part, values since the sum was last taken afresh]. values before first are history. The sum
    is taken afresh once per period, so that an outlier leaves no trace after its window.
    """
    high, low, age = carry[0], carry[1], carry[2]
    for i in range(first, len(values)):
        age += 1.0
        if age >= period and i + 1 >= period:
            high, low, age = 0.0, 0.0, 0.0
            for j in range(i + 1 - period, i + 1):
                high, low = add_exactly(high, low, values[j])
        else:
            high, low = add_exactly(high, low, values[i])
            if i >= period:
                high, low = add_exactly(high, low, -values[i - period])
        means[i] = (high + low) / period if i + 1 >= period else np.nan
    carry[0], carry[1], carry[2] = high, low, age


@compiled(numba.void(_FS, _I, _I, _FS, _FS))
def exponential_means(values: FloatColumn, skip: int, period: int, carry: FloatColumn, means: FloatColumn) -> None:
    """Write the EMA, alpha 2 / (period + 1), seeded with the mean of the first `period` values after `skip` of them.

    carry = [values seen, sum of the seed or EMA]. Source: TA-Lib's EMA, in its order of operations. NaN is not counted.
    """
    seen, mean = carry[0], carry[1]
    weight = 2.0 / (period + 1.0)
    for i in range(len(values)):
        means[i] = np.nan
        if np.isnan(values[i]):
            continue
        seen += 1.0
        if seen <= skip:
            continue
        if seen <= skip + period:
            mean += values[i]
            if seen == skip + period:
                mean /= period
        else:
            mean = (values[i] - mean) * weight + mean
        if seen >= skip + period:
            means[i] = mean
    carry[0], carry[1] = seen, mean


@compiled(numba.void(_FS, _I, _FS, _FS))
def relative_strength(close: FloatColumn, period: int, carry: FloatColumn, out: FloatColumn) -> None:
    """Write Wilder's RSI, 0..100; NaN while warming up and where there are neither gains nor losses.

    carry = [closes seen, last close, gain, loss]. Source: TA-Lib's RSI, in its order of operations and with its 1e-14
    below which gains and losses are none.
    """
    seen, last, gain, loss = carry[0], carry[1], carry[2], carry[3]
    for i in range(len(close)):
        change = close[i] - last
        last = close[i]
        seen += 1.0
        out[i] = np.nan
        if seen == 1.0:
            continue
        up, down = max(change, 0.0), max(-change, 0.0)
        if seen <= period + 1.0:
            gain += up
            loss += down
            if seen == period + 1.0:
                gain /= period
                loss /= period
        else:
            gain = (gain * (period - 1.0) + up) / period
            loss = (loss * (period - 1.0) + down) / period
        total = gain + loss
        if seen >= period + 1.0 and total >= 1e-14:
            out[i] = 100.0 * (gain / total)
    carry[0], carry[1], carry[2], carry[3] = seen, last, gain, loss


@compiled(numba.void(_FS, _I, _I, _FS, _FS))
def window_deviations(
    values: FloatColumn, first: int, period: int, means: FloatColumn, deviations: FloatColumn
) -> None:
    """Write the population deviation of each window, taken about its mean; NaN where the mean is."""
    for i in range(first, len(values)):
        deviations[i] = np.nan
        if not np.isnan(means[i]):
            squares = 0.0
            for j in range(i + 1 - period, i + 1):
                squares += (values[j] - means[i]) ** 2
            deviations[i] = np.sqrt(squares / period)


@compiled(numba.void(_FS, _FS, _FS, _F, _FS))
def crossing_sides(
    upper: FloatColumn, lower: FloatColumn, scale: FloatColumn, down: float, target: FloatColumn
) -> None:
    """Write 1 where upper is above lower, `down` where below; NaN where either is, or within 1e-12 * scale of it.

    target may be upper or lower.
    """
    for i in range(len(upper)):
        apart = upper[i] - lower[i]
        side = 1.0 if apart > 0.0 else down
        target[i] = side if abs(apart) > TIE * scale[i] else np.nan


@compiled(_F(_FS, _FS, _FS, _FS, _I, _F, _F, _FS))
def band_sides(
    close: FloatColumn, lower: FloatColumn, middle: FloatColumn, upper: FloatColumn, first: int, side: float,
    down: float, target: FloatColumn,
) -> float:  # fmt: skip
    """Write 1, 0 or -1 where the side of the bands changes, NaN elsewhere; return the side at the end."""
    for i in range(first, len(close)):
        now = side
        if close[i] < lower[i]:
            now = 1.0
        elif down < 0.0 and close[i] > upper[i]:
            now = -1.0
        elif (side > 0.0 and close[i] > middle[i]) or (side < 0.0 and close[i] < middle[i]):
            now = 0.0
        target[i] = now if now != side else np.nan
        side = now
    return side
