"""Numbers of a report: drawdown, monthly returns, bins of trade returns, and thinning that keeps peaks and troughs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from klinecast.columns import Column

MAX_POINTS = 2_000
MAX_BINS = 60

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie in bins of one width; 0 is an edge, so that a bin holds gains or losses, never both."""

    centers: Floats
    counts: Indices
    width: float
    beyond: int
    """Values beyond the bins, counted in the outermost ones."""


def compute_drawdown(equity: Floats, initial_cash: float) -> Floats:
    """Return equity / running peak - 1, the first peak being the start money."""
    peak = np.maximum.accumulate(np.maximum(equity, initial_cash))
    return equity / peak - 1.0


def pick_points(values: Floats, most: int = MAX_POINTS) -> Indices:
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


def pick_for_all(curves: list[Floats], most: int = MAX_POINTS) -> Indices:
    """Return indices of at most `most` points for curves of one length, a share of them picked by each."""
    picked = [pick_points(values, most // len(curves)) for values in curves]
    return np.unique(np.concatenate(picked)).astype(np.int64)


def compute_monthly_returns(open_time_ms: NDArray[np.int64], equity: Floats, initial_cash: float) -> dict[str, float]:
    """Return the return of each calendar month (UTC) by its name 2025-01; they compound to the total return."""
    months = open_time_ms.astype("datetime64[ms]").astype("datetime64[M]")
    last = np.flatnonzero(np.append(months[1:] != months[:-1], True)) if len(months) else np.empty(0, np.int64)
    ends = equity[last]
    starts = np.concatenate([[initial_cash], ends])[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        returns = np.where(starts > 0, ends / starts - 1.0, 0.0)
    return {str(months[index]): float(one) for index, one in zip(last, returns, strict=True)}


def compute_trade_returns(trades: Mapping[str, Column]) -> Floats:
    """Return profit / (quantity * entry_price) of every closed trade: fractions of what was put in."""
    closed = trades["exit_time_ms"] >= 0
    paid = (trades["quantity"] * trades["entry_price"])[closed]
    with np.errstate(divide="ignore", invalid="ignore"):
        returns: Floats = trades["profit"][closed] / paid
    return returns[np.isfinite(returns)]


def compute_histogram(values: Floats, most: int = MAX_BINS) -> Histogram:
    """Count values in at most `most` bins of a round width; of many values, 1 % may lie beyond them."""
    if not len(values):
        return Histogram(np.empty(0), np.empty(0, np.int64), 0.0, 0)
    low, high = np.quantile(values, [0.005, 0.995]) if len(values) >= 200 else (values.min(), values.max())
    wanted = min(most - 2, max(10, round(2 * math.sqrt(len(values)))))  # the edges are rounded outwards by up to two
    width = _round_up(max(float(high - low), 1e-4) / wanted)
    first, last = math.floor(low / width), max(math.ceil(high / width), math.floor(low / width) + 1)
    bins = np.clip(np.floor(values / width).astype(np.int64) - first, 0, last - first - 1)
    beyond = int(np.count_nonzero((values < first * width) | (values > last * width)))
    centers = (np.arange(first, last) + 0.5) * width
    return Histogram(centers, np.bincount(bins, minlength=last - first), width, beyond)


def _round_up(width: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= width * (1 - 1e-9))
