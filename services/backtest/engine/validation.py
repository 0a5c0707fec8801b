"""What the engine refuses to simulate, checked before the first kline."""

from __future__ import annotations

import math

import numpy as np

from klinecast.types import (
    ExecutionModel,
    FloatColumn,
    FundingColumns,
    KlineColumns,
    MarketType,
    MissingFunding,
    Signals,
    TargetUnit,
    TimeColumn,
)
from services.backtest.engine.errors import EngineError
from services.backtest.engine.jit import compiled, leaf
from services.backtest.engine.records import (
    DISTANCE_FAULT_SIGNATURE,
    KLINE_FAULT_SIGNATURE,
    PRICE_FAULT_SIGNATURE,
    TARGET_FAULT_SIGNATURE,
)

HOUR_MS = 3_600_000
FUNDING_GRACE_MS = 60_000
"""A funding record counts for an expected stamp up to this much after it: venues stamp some milliseconds late."""
LARGEST_FLOAT = np.finfo(np.float64).max
NOTHING = np.empty(0, np.float64)

_KLINE_FAULTS = ("", "open_time does not ascend", "a price is not finite and above 0")
_TARGET_FAULTS = ("", "the target is infinite", "the target exceeds max_leverage", "shorts are not allowed")


@leaf
def is_price(value: float) -> bool:
    """Tell whether a value is finite and above 0."""
    return 0.0 < value < math.inf


@leaf
def are_prices(column: FloatColumn) -> bool:
    """Tell whether all values are prices; without a branch, so that the loop is vectorised."""
    good = 0
    for i in range(len(column)):
        good += column[i] > 0.0
        good += column[i] < np.inf
    return good == 2 * len(column)


@leaf
def smallest_distance(open_ms: TimeColumn) -> tuple[int, bool]:
    """Return the smallest distance of neighbours, 0 for one kline, and whether all are above 0."""
    if len(open_ms) < 2:
        return 0, True
    smallest = open_ms[1] - open_ms[0]
    for i in range(2, len(open_ms)):
        distance = open_ms[i] - open_ms[i - 1]
        smallest = distance if distance < smallest else smallest
    return smallest, smallest > 0


@compiled(KLINE_FAULT_SIGNATURE)
def find_kline_fault(
    open_ms: TimeColumn, opens: FloatColumn, highs: FloatColumn, lows: FloatColumn, closes: FloatColumn
) -> tuple[int, int, int]:
    """Return (index, code, smallest distance of open times); code 0 = no bad kline, distance 0 = one kline."""
    span, ordered = smallest_distance(open_ms)
    if ordered and are_prices(opens) and are_prices(highs) and are_prices(lows) and are_prices(closes):
        return 0, 0, span
    for i in range(len(open_ms)):
        if i and open_ms[i] <= open_ms[i - 1]:
            return i, 1, span
        if not (is_price(opens[i]) and is_price(highs[i]) and is_price(lows[i]) and is_price(closes[i])):
            return i, 2, span
    return 0, 0, span


@compiled(TARGET_FAULT_SIGNATURE)
def find_target_fault(target: FloatColumn, largest: float, shorts: bool) -> tuple[int, int]:
    """Return (index, code) of the first bad target; code 0 = none."""
    highest = min(largest, LARGEST_FLOAT)
    lowest = -highest if shorts else 0.0
    bad = 0
    for i in range(len(target)):  # without a branch, so that the loop is vectorised
        bad += target[i] > highest
        bad += target[i] < lowest
    if bad == 0:
        return 0, 0
    for i in range(len(target)):
        if math.isinf(target[i]):
            return i, 1
        if abs(target[i]) > largest:
            return i, 2
        if target[i] < 0.0 and not shorts:
            return i, 3
    return 0, 0


@compiled(DISTANCE_FAULT_SIGNATURE)
def find_distance_fault(distance: FloatColumn) -> int:
    """Return the index of the first distance that is not above 0 (NaN = none given), -1 = none."""
    for i in range(len(distance)):
        if distance[i] <= 0.0:
            return i
    return -1


@compiled(PRICE_FAULT_SIGNATURE)
def find_price_fault(price: FloatColumn, other: FloatColumn) -> int:
    """Return the index of the first resting price that is impossible or stands beside another, -1 = none."""
    for i in range(len(price)):
        if math.isnan(price[i]):
            continue
        if not is_price(price[i]) or (len(other) and not math.isnan(other[i])):
            return i
    return -1


def optional_columns(
    signals: Signals,
) -> tuple[FloatColumn, FloatColumn, FloatColumn, FloatColumn, FloatColumn]:
    """Return the optional columns of signals, of length 0 where not given."""
    return (
        NOTHING if signals.stop_loss is None else signals.stop_loss,
        NOTHING if signals.take_profit is None else signals.take_profit,
        NOTHING if signals.trailing_stop is None else signals.trailing_stop,
        NOTHING if signals.limit_price is None else signals.limit_price,
        NOTHING if signals.stop_price is None else signals.stop_price,
    )


def require_klines(klines: KlineColumns, after_ms: int | None, base: int) -> int:
    """Refuse empty, unordered or impossible klines; return the smallest distance of open times, 0 = one kline.

    after_ms is the last open_time of the run being continued, None at its start.
    """
    if not len(klines):
        raise EngineError("INVALID_KLINES", None, "there are none")
    index, code, span_ms = find_kline_fault(klines.open_time_ms, klines.open, klines.high, klines.low, klines.close)
    if code:
        raise EngineError("INVALID_KLINES", base + index, _KLINE_FAULTS[code])
    if after_ms is not None and klines.open_time_ms[0] <= after_ms:
        raise EngineError("INVALID_KLINES", base, "it does not follow the klines of the state")
    return span_ms


def require_signals(signals: Signals, length: int, execution: ExecutionModel, base: int) -> None:
    """Refuse signals of the wrong length or with an impossible value."""
    optional = optional_columns(signals)
    for column in (signals.target_exposure, *optional):
        if column.ndim != 1 or (len(column) != length and column is not NOTHING):
            raise EngineError("INVALID_SIGNALS", None, f"{len(column)} values for {length} klines")
    largest = execution.max_leverage if execution.target_unit is TargetUnit.EXPOSURE else math.inf
    index, code = find_target_fault(signals.target_exposure, largest, execution.shorts_allowed)
    if code:
        raise EngineError("INVALID_EXPOSURE", base + index, _TARGET_FAULTS[code])
    stop_loss, take_profit, trailing_stop, limit_price, stop_price = optional
    for column in (stop_loss, take_profit, trailing_stop):
        if (index := find_distance_fault(column)) >= 0:
            raise EngineError("INVALID_SIGNALS", base + index, "a protective distance is not above 0")
    for column, other in ((limit_price, stop_price), (stop_price, NOTHING)):
        if (index := find_price_fault(column, other)) >= 0:
            raise EngineError("INVALID_SIGNALS", base + index, "a resting price is impossible, or given twice")


def require_supported(execution: ExecutionModel, funding: FundingColumns | None) -> None:
    """Refuse markets the engine does not model, and funding where there is none."""
    if execution.market_type is MarketType.INVERSE_PERPETUAL:
        raise EngineError("UNSUPPORTED_MARKET_TYPE", None, "inverse perpetuals are settled in the base currency")
    if funding is not None and execution.market_type is MarketType.SPOT:
        raise EngineError("UNSUPPORTED_EXECUTION", None, "funding is paid on perpetuals only")


def count_missing_funding(
    klines: KlineColumns,
    funding: FundingColumns | None,
    execution: ExecutionModel,
    *,
    start_ms: int,
    end_ms: int,
    base: int,
) -> int:
    """Count the expected funding stamps in [start_ms, end_ms) without a record; under FAIL the first is an error."""
    if execution.market_type is MarketType.SPOT:
        return 0
    times = np.empty(0, np.int64) if funding is None else funding.time_ms
    if funding is not None:
        require_funding(funding)
    step = int(execution.funding_interval_hours * HOUR_MS)
    expected = np.arange(-(-start_ms // step) * step, end_ms, step)
    first = np.searchsorted(times, expected)
    recorded = np.append(times, np.iinfo(np.int64).max)[first] - expected < FUNDING_GRACE_MS
    missing = expected[~recorded]
    if len(missing) and execution.missing_funding is MissingFunding.FAIL:
        kline = max(int(np.searchsorted(klines.open_time_ms, missing[0], side="right")) - 1, 0)
        raise EngineError("MISSING_FUNDING", base + kline, f"no record over {missing[0]} ms, {len(missing)} missing")
    return len(missing)


def require_funding(funding: FundingColumns) -> None:
    """Refuse unordered or impossible funding records."""
    if np.any(np.diff(funding.time_ms) <= 0):
        raise EngineError("INVALID_FUNDING", None, "time does not ascend")
    if not np.all(np.isfinite(funding.rate)) or np.any(np.isinf(funding.mark_price)) or np.any(funding.mark_price <= 0):
        raise EngineError("INVALID_FUNDING", None, "a rate or mark_price is impossible")
