"""The records the kernels work on: the whole state of a run, its rules, and their numba types."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from klinecast.types import (
    FILL_DTYPE,
    TRADE_DTYPE,
    ExecutionModel,
    FillTiming,
    GapPolicy,
    IntrabarPolicy,
    MarginMode,
    MarketType,
    ProtectFrom,
    Rebalance,
    Reentry,
    TargetUnit,
    TouchRule,
)

Record = NDArray[np.void]

RowT = TypeVar("RowT", covariant=True)


class Rows(Protocol[RowT]):
    """A structured array as kernels see it: rows with attributes."""

    def __getitem__(self, index: int, /) -> RowT:
        """Return a row; writing to its attributes writes to the array."""

    def __len__(self) -> int:
        """Return the number of rows."""


class Table(Protocol[RowT]):
    """A structured array of two dimensions as kernels see it: the rows of several series."""

    shape: tuple[int, int]

    def __getitem__(self, index: int, /) -> Rows[RowT]:
        """Return the rows of a series."""


class State:
    """Everything a run knows between two klines; integers are i8, floats f8."""

    next_index: int  # klines done since the start of the run
    ruined_at: int  # index of the kline of ruin, -1 = never
    locked: int  # 1 = flat after a protective exit, waiting as `reentry` says
    target_kind: int  # how the last decision wants to enter: MARKET, LIMIT, STOP
    resting: int  # the resting entry: 0 = none, LIMIT, STOP
    resting_left: int  # klines it still rests
    protect_after: int  # first kline in which protective orders act
    best_after: int  # first kline whose extremes may move the trailing best
    entry_index: int  # of the open trade
    increases: int  # fills that opened or increased the open trade
    reductions: int  # fills that reduced it
    ambiguous: int  # klines in which only the policy could tell
    resolved: int  # klines in which finer klines told
    policy_used: int  # times the intrabar policy decided anything
    last_open_ms: int  # open_time of the last kline done
    span_ms: int  # span of a kline, 0 = unknown
    missing_funding: int  # expected stamps without a record
    funding_at: int  # this call's next funding record
    fill_count: int  # fills logged in this call
    trade_count: int  # trades logged in this call
    initial_cash: float  # start money
    cash: float  # free money
    quantity: float  # base units, signed
    elsewhere: float  # value of the account's other positions, signed; 0 where it trades one series
    pledged: float  # their gross value
    equity: float  # at the last close done
    last_close: float  # of the last kline done
    entry: float  # average cost of the position
    alarm_low: float  # only a kline that reaches down to it
    alarm_high: float  # or up to it can touch a level of the position
    best: float  # most favourable price since entry, for the trailing stop
    stop_loss: float  # distances of the position
    take_profit: float  # distance of the position, NaN = none
    trailing_stop: float  # distance of the position, NaN = none
    target: float  # last decision
    target_stop_loss: float  # distances it gives to a position it opens
    target_take_profit: float
    target_trailing_stop: float
    acted: float  # last target acted on
    resting_price: float  # where the resting entry waits
    resting_target: float  # what it wants
    resting_stop_loss: float  # distances it hands to the position
    resting_take_profit: float
    resting_trailing_stop: float
    pending_target: float  # the decision of the last kline done
    pending_stop_loss: float  # its distances and resting prices
    pending_take_profit: float
    pending_trailing_stop: float
    pending_limit_price: float
    pending_stop_price: float
    trade_quantity: float  # of the open trade: sums over its fills
    entry_value: float  # notional of its increases
    entry_price: float  # price of its last increase
    exit_value: float  # notional of its reductions
    exit_price: float  # price of its last reduction
    trade_fees: float  # fees of its fills
    trade_funding: float  # funding paid while it is open
    total_fees: float  # since the start of the run
    total_slippage: float  # sum of quantity * |price - reference|
    total_funding: float  # paid (positive) or received


class Rules:
    """An execution model as numbers: flags are 0 or 1, enums count from 0 in the order of declaration."""

    this_close: int  # decisions fill at the close
    next_kline: int  # protective orders act from the kline after the entry
    policy: int  # STOP_FIRST, TARGET_FIRST, NEAREST_FIRST
    at_level: int  # gaps fill at the level
    strict: int  # a level must be traded through
    unit: int  # EXPOSURE, QUANTITY, NOTIONAL
    every_kline: int  # orders at every fill time
    next_decision: int  # any decision ends the flat time after an exit
    perpetual: int  # has margin and liquidation
    cross: int  # margin is all cash
    order_klines: int  # klines an entry rests
    taker_fee: float  # fees as fractions of notional
    maker_fee: float
    liquidation_fee: float
    fixed_fee: float  # quote units a fill
    slippage: float  # fraction of the price
    max_leverage: float
    step_size: float  # base units, 0 = any
    min_notional: float  # quote units
    tolerance: float  # share of equity
    maintenance: float  # maintenance margin / notional
    stop_loss: float  # distance where signals give none, NaN = none
    take_profit: float  # distance where signals give none, NaN = none
    trailing_stop: float  # distance where signals give none, NaN = none


class Fill:
    """A row of FILL_DTYPE."""

    kline_index: int
    side: int
    quantity: float
    price: float
    fee: float
    reason: int


class Trade:
    """A row of TRADE_DTYPE."""

    entry_index: int
    exit_index: int
    side: int
    quantity: float
    entry_price: float
    exit_price: float
    profit: float
    fees: float
    funding: float
    exit_reason: int


def _dtype_of(row: type) -> np.dtype[np.void]:
    kinds = {"int": "i8", "float": "f8"}
    return np.dtype([(name, kinds[kind]) for name, kind in row.__annotations__.items()])


STATE_DTYPE = _dtype_of(State)
RULES_DTYPE = _dtype_of(Rules)

MARKET, LIMIT, STOP = 0, 1, 2
STOP_FIRST, TARGET_FIRST, NEAREST_FIRST = 0, 1, 2
EXPOSURE, QUANTITY, NOTIONAL = 0, 1, 2

STATES = numba.from_dtype(STATE_DTYPE)[::1]
RULES = numba.from_dtype(RULES_DTYPE)[::1]
_PAIR = numba.types.UniTuple(numba.int64, 2)  # type: ignore[no-untyped-call]
_TRIPLE = numba.types.UniTuple(numba.int64, 3)  # type: ignore[no-untyped-call]
_FLOATS = numba.float64[::1]
_TIMES = numba.int64[::1]
FILLS = numba.from_dtype(FILL_DTYPE)[::1]
TRADES = numba.from_dtype(TRADE_DTYPE)[::1]

ADVANCE_SIGNATURE = numba.int64(
    STATES, RULES, _TIMES, *[_FLOATS] * 4, *[_FLOATS] * 6, _TIMES, *[_FLOATS] * 2, _TIMES, _TIMES, *[_FLOATS] * 3,
    _FLOATS, FILLS, TRADES, numba.int64, numba.int64,
)  # fmt: skip
CLOSE_SIGNATURE = numba.void(STATES, RULES, FILLS, TRADES, numba.float64, numba.int64)
KLINE_FAULT_SIGNATURE = _TRIPLE(_TIMES, *[_FLOATS] * 4)
TARGET_FAULT_SIGNATURE = _PAIR(_FLOATS, numba.float64, numba.boolean)
DISTANCE_FAULT_SIGNATURE = numba.int64(_FLOATS)
PRICE_FAULT_SIGNATURE = numba.int64(_FLOATS, _FLOATS)


_UNKNOWN_AT_START = [
    name
    for name, kind in State.__annotations__.items()
    if kind == "float"
    and (name.startswith(("pending_", "resting_", "target_")) or name in ("stop_loss", "take_profit", "trailing_stop"))
]


def new_state(initial_cash: float, span_ms: int) -> Record:
    """Return the state before the first kline."""
    state = copied(_AT_START)
    for name in ("initial_cash", "cash", "equity"):
        state[name] = initial_cash
    state["span_ms"] = span_ms
    return state


def copied(state: Record) -> Record:
    """Copy a state in one go; copying the record as such would go field by field."""
    return state.view(np.uint8).copy().view(STATE_DTYPE)


def _at_start() -> Record:
    state = np.zeros(1, STATE_DTYPE)
    for name in _UNKNOWN_AT_START:
        state[name] = np.nan
    state["ruined_at"] = -1
    state["entry_index"] = -1
    return state


_AT_START = _at_start()


def new_rules(execution: ExecutionModel, policy: IntrabarPolicy) -> Record:
    """Return an execution model as numbers, under one intrabar policy."""
    integers = (
        execution.fill_timing is FillTiming.THIS_CLOSE,
        execution.protect_from is ProtectFrom.NEXT_KLINE,
        _order_of(policy),
        execution.gap_policy is GapPolicy.AT_LEVEL,
        execution.touch_rule is TouchRule.STRICT,
        _order_of(execution.target_unit),
        execution.rebalance is Rebalance.EVERY_KLINE,
        execution.reentry is Reentry.NEXT_DECISION,
        execution.market_type is not MarketType.SPOT,
        execution.margin_mode is MarginMode.CROSS,
        execution.order_klines,
    )
    floats = (
        execution.taker_fee_bps / 1e4,
        execution.effective_maker_fee_bps / 1e4,
        execution.liquidation_fee_bps / 1e4,
        execution.fixed_fee,
        execution.slippage_bps / 1e4,
        execution.max_leverage,
        execution.step_size,
        execution.min_notional,
        execution.rebalance_tolerance,
        execution.maintenance_margin_rate,
        *[
            np.nan if one is None else one
            for one in (execution.stop_loss, execution.take_profit, execution.trailing_stop)
        ],
    )
    return np.array([integers + floats], RULES_DTYPE)


_ORDERS: dict[StrEnum, int] = {
    member: order for kind in (IntrabarPolicy, TargetUnit) for order, member in enumerate(kind)
}


def _order_of(member: IntrabarPolicy | TargetUnit) -> int:
    return _ORDERS[member]
