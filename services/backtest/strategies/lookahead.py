"""Finds strategies that look ahead: cutting off the klines after t must change no decision at or before t."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from klinecast.strategy import AnyStrategy, Mode
from klinecast.types import FloatColumn, KlineColumns, Signals
from services.backtest.strategies import decisions_of

SAMPLE_KLINES = 256
_COLUMNS = ("target_exposure", "stop_loss", "take_profit", "trailing_stop", "limit_price", "stop_price")
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of a strategy; both None: it decided the same on every cut."""

    kline_index: int | None = None
    """First kline whose decision depends on later klines."""
    unproven: str | None = None
    """Why it could not be looked at in full."""


def find_lookahead(strategy: AnyStrategy[BaseModel]) -> Finding:
    """Run a strategy with default params over the first t of 256 klines for every t, and compare.

    A strategy that raises, or has params without a default, proves nothing: its backtests will say so themselves.
    """
    try:
        params = strategy.Params()
        klines = sample_klines(strategy, params)
        whole = decisions_of(strategy, params, klines, Mode.LONG_SHORT)
    except Exception as error:
        return Finding(unproven=f"{type(error).__name__}: {error}"[:200])
    earliest, unproven = SAMPLE_KLINES, None
    for cut in _cuts():
        try:
            part = decisions_of(strategy, params, klines.slice(0, cut).copy(), Mode.LONG_SHORT)
            earliest = min(earliest, _first_difference(whole, part, cut))
        except Exception as error:  # on so few klines; the others may still tell
            unproven = f"{type(error).__name__} on {cut} klines: {error}"[:200]
    if earliest < SAMPLE_KLINES:
        return Finding(kline_index=earliest)
    return Finding(unproven=unproven)


def sample_klines(strategy: AnyStrategy[BaseModel], params: BaseModel) -> KlineColumns:
    """Return a random walk with trends, a flat stretch and a gap, and a random column for each indicator asked for."""
    random = np.random.default_rng(20240101)
    steps = random.normal(0.0, 0.01, SAMPLE_KLINES) + 0.004 * np.sin(np.arange(SAMPLE_KLINES) / 12)
    steps[100:110] = 0.0
    close = 100.0 * np.exp(np.cumsum(steps))
    opening = np.append(100.0, close[:-1]) * (1.0 + random.normal(0.0, 0.001, SAMPLE_KLINES))
    high = np.maximum(opening, close) * (1.0 + random.uniform(0.0, 0.005, SAMPLE_KLINES))
    low = np.minimum(opening, close) * (1.0 - random.uniform(0.0, 0.005, SAMPLE_KLINES))
    times = 1_704_067_200_000 + _HOUR_MS * (np.arange(SAMPLE_KLINES) + 5 * (np.arange(SAMPLE_KLINES) >= 180))
    asked = {one.column: np.cumsum(random.normal(0.0, 1.0, SAMPLE_KLINES)) for one in strategy.indicators(params)}
    return KlineColumns(times, opening, high, low, close, random.uniform(1.0, 9.0, SAMPLE_KLINES), asked)


def _cuts() -> Iterator[int]:
    """Yield every length from 1 to 255, far ones first, so that one who is cut short has seen a bit of everything."""
    for step in (64, 16, 4, 1):
        yield from (cut for cut in range(step, SAMPLE_KLINES, step) if step == 64 or cut % (4 * step))


def _first_difference(whole: Signals, part: Signals, cut: int) -> int:
    """Return the first of `cut` klines at which two decide differently, SAMPLE_KLINES where none."""
    places = [SAMPLE_KLINES]
    for name in _COLUMNS:
        ours, theirs = _column(whole, name, cut), _column(part, name, cut)
        different = np.flatnonzero(~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs))))
        places += different[:1].tolist()
    return min(places)


def _column(signals: Signals, name: str, cut: int) -> FloatColumn:
    column: FloatColumn | None = getattr(signals, name)
    return np.full(cut, np.nan) if column is None else column[:cut]
