"""Curves of a report: drawdown, monthly returns, and thinning that keeps peaks and troughs."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 2_000

Floats = NDArray[np.float64]


def compute_drawdown(equity: Floats, initial_cash: float) -> Floats:
    """Return equity / running peak - 1, the first peak being the start money."""
    peak = np.maximum.accumulate(np.maximum(equity, initial_cash))
    return equity / peak - 1.0


def pick_points(values: Floats, most: int = MAX_POINTS) -> NDArray[np.int64]:
    """Return ascending indices of at most `most` points: the first and last, and each bucket's lowest and highest."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most // 2).astype(np.int64)
    picked = [0, count - 1]
    for start, stop in itertools.pairwise(edges.tolist()):
        bucket = values[start:stop]
        picked += [int(start + bucket.argmin()), int(start + bucket.argmax())]
    return np.unique(np.array(picked, dtype=np.int64))


def compute_monthly_returns(open_time_ms: NDArray[np.int64], equity: Floats, initial_cash: float) -> dict[str, float]:
    """Return the return of each calendar month (UTC) by its name 2025-01; they compound to the total return."""
    months = open_time_ms.astype("datetime64[ms]").astype("datetime64[M]")
    last = np.flatnonzero(np.append(months[1:] != months[:-1], True)) if len(months) else np.empty(0, np.int64)
    ends = equity[last]
    starts = np.concatenate([[initial_cash], ends])[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        returns = np.where(starts > 0, ends / starts - 1.0, 0.0)
    return {str(months[index]): float(one) for index, one in zip(last, returns, strict=True)}
