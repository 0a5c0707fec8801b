"""Kernels of price channels: extremes of the klines before each, and the side of a breakout; linear in klines."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from klinecast.types import FloatColumn
from services.backtest.engine.jit import compiled

_I, _F, _FS = numba.int64, numba.float64, numba.float64[::1]


@compiled(numba.void(_FS, _I, _F, _FS, numba.int64[::1]))
def highest_before(
    values: FloatColumn, period: int, sign: float, extremes: FloatColumn, waiting: NDArray[np.int64]
) -> None:
    """Write the highest (sign 1) or lowest (sign -1) of the `period` values before each; NaN where there are fewer.

    waiting is room for as many places as there are values: those whose value may yet be the extreme, best first.
    """
    first, end = 0, 0
    for i in range(len(values)):
        if first < end and waiting[first] < i - period:
            first += 1
        extremes[i] = values[waiting[first]] if i >= period else np.nan
        while end > first and sign * values[waiting[end - 1]] <= sign * values[i]:
            end -= 1
        waiting[end] = i
        end += 1


@compiled(_F(_FS, numba.float64[:, ::1], _F, _F, _FS))
def breakout_sides(close: FloatColumn, bounds: FloatColumn, side: float, down: float, target: FloatColumn) -> float:
    """Write 1, 0 or -1 where the side changes, NaN elsewhere; return the side at the end.

    bounds: highest high and lowest low of the entry channel, then of the exit channel. NaN breaks nothing.
    """
    for i in range(len(close)):
        now = side
        if close[i] > bounds[0, i]:
            now = 1.0
        elif close[i] < bounds[1, i]:
            now = down
        elif (side > 0.0 and close[i] < bounds[3, i]) or (side < 0.0 and close[i] > bounds[2, i]):
            now = 0.0
        target[i] = now if now != side else np.nan
        side = now
    return side
