"""njit leaves: how an order is sized, filled and booked, and how fills become trades.

Every amount is linear in money, without added constants: prices and cash times a power of two give the same bits.
"""

from __future__ import annotations

import math

import numpy as np

from services.backtest.engine.jit import leaf
from services.backtest.engine.records import EXPOSURE, QUANTITY, Fill, Rows, Rules, State, Trade

SIGNAL = 1
DUST = 1e-9
EPSILON = float(np.finfo(np.float64).eps)


@leaf
def wanted_quantity(target: float, unit: int, equity: float, reference: float) -> float:
    """Return the signed quantity a target means at a price."""
    if unit == EXPOSURE:
        return target * equity / reference
    if unit == QUANTITY:
        return target
    return target / reference


@leaf
def rounded(quantity: float, step: float) -> float:
    """Round down to a multiple of step; within 1e-9 of a multiple counts as it."""
    if step <= 0.0:
        return quantity
    units = quantity / step
    nearest = np.rint(units)
    near = max(1e-9, 4.0 * EPSILON * units)  # beyond some million steps, what division can tell apart
    return step * (nearest if abs(units - nearest) <= near else math.floor(units))


@leaf
def log_fill(
    state: State, fills: Rows[Fill], index: int, side: float, quantity: float, price: float, fee: float, reason: int
) -> None:
    """Append a fill."""
    row = fills[state.fill_count]
    row.kline_index = index
    row.side = 1 if side > 0.0 else -1
    row.quantity = quantity
    row.price = price
    row.fee = fee
    row.reason = reason
    state.fill_count += 1


@leaf
def book(state: State, side: float, quantity: float, price: float, reference: float, fee: float) -> None:
    """Move cash and the totals of run and trade for a fill."""
    state.cash -= side * (quantity * price) + fee
    state.trade_fees += fee
    state.total_fees += fee
    state.total_slippage += quantity * abs(price - reference)


@leaf
def log_trade(state: State, trades: Rows[Trade], side: float, exit_index: int, remainder: float, reason: int) -> None:
    """Append the trade of the state; remainder is the value of what is still held."""
    row = trades[state.trade_count]
    row.entry_index = state.entry_index
    row.exit_index = exit_index
    row.side = 1 if side > 0.0 else -1
    row.quantity = state.trade_quantity
    row.entry_price = state.entry_price if state.increases == 1 else state.entry_value / state.trade_quantity
    exit_value = state.exit_value + remainder
    single = state.reductions == 1 and remainder == 0.0
    row.exit_price = state.exit_price if single else exit_value / state.trade_quantity
    row.profit = side * (exit_value - state.entry_value) - state.trade_fees - state.trade_funding
    row.fees = state.trade_fees
    row.funding = state.trade_funding
    row.exit_reason = reason
    state.trade_count += 1


@leaf
def start_trade(state: State, index: int, price: float) -> None:
    """Begin a trade: nothing bought yet."""
    state.entry_index = index
    state.entry = price
    state.best = price
    state.increases = 0
    state.reductions = 0
    state.trade_quantity = 0.0
    state.entry_value = 0.0
    state.exit_value = 0.0
    state.trade_fees = 0.0
    state.trade_funding = 0.0


@leaf
def worth(state: State, price: float) -> float:
    """Return the equity of the account with the position at a price."""
    return state.cash + state.quantity * price + state.elsewhere


@leaf
def increase_limit(state: State, rules: Rules, price: float, fee_rate: float) -> float:
    """Return the largest increase after which all positions are worth <= max_leverage * equity, fees paid."""
    leverage = rules.max_leverage
    divisor = price * (1.0 + leverage * fee_rate)
    if divisor <= 0.0:
        return np.inf
    room = leverage * (worth(state, price) - rules.fixed_fee) - abs(state.quantity) * price
    return (room - state.pledged) / divisor


@leaf
def increase(
    state: State,
    rules: Rules,
    fills: Rows[Fill],
    index: int,
    wanted: float,
    reference: float,
    slippage: float,
    fee_rate: float,
) -> bool:
    """Open or increase towards a wanted quantity of the same sign; tell whether it opened a position."""
    side = 1.0 if wanted > 0.0 else -1.0
    price = reference * (1.0 + side * slippage)
    desired = abs(wanted) - abs(state.quantity)
    limit = increase_limit(state, rules, price, fee_rate)
    cut = limit < desired
    quantity = rounded(limit if cut else desired, rules.step_size)
    notional = quantity * price
    equity = worth(state, reference)
    if not quantity > 0.0 or notional < rules.min_notional or notional <= DUST * equity:
        return False
    opened = state.quantity == 0.0
    held = abs(state.quantity)
    if opened:
        start_trade(state, index, price)
    else:
        state.entry += (price - state.entry) * (quantity / (held + quantity))  # stays exact where the price is the same
    fee = notional * fee_rate + rules.fixed_fee
    book(state, side, quantity, price, reference, fee)
    all_in = cut and rules.step_size == 0.0 and rules.max_leverage == 1.0
    no_shorts = rules.perpetual == 0 and side > 0.0 and state.elsewhere == state.pledged
    if no_shorts and (all_in or state.cash < 0.0):
        state.cash = 0.0  # what cash pays, without the rounding error of the division
    state.quantity = side * (held + quantity)
    state.increases += 1
    state.trade_quantity += quantity
    state.entry_value += notional
    state.entry_price = price
    log_fill(state, fills, index, side, quantity, price, fee, SIGNAL)
    return opened


@leaf
def close(
    state: State,
    fills: Rows[Fill],
    trades: Rows[Trade],
    index: int,
    price: float,
    reference: float,
    fee: float,
    reason: int,
) -> None:
    """Close all of the position: quantity becomes exactly 0 and the trade ends."""
    side = 1.0 if state.quantity > 0.0 else -1.0
    quantity = abs(state.quantity)
    book(state, -side, quantity, price, reference, fee)
    state.exit_value += quantity * price
    state.exit_price = price
    state.reductions += 1
    state.quantity = 0.0
    log_fill(state, fills, index, -side, quantity, price, fee, reason)
    log_trade(state, trades, side, index, 0.0, reason)


@leaf
def close_market(
    state: State, rules: Rules, fills: Rows[Fill], trades: Rows[Trade], index: int, reference: float, reason: int
) -> None:
    """Close by a market order."""
    side = -1.0 if state.quantity > 0.0 else 1.0
    price = reference * (1.0 + side * rules.slippage)
    fee = abs(state.quantity) * price * rules.taker_fee + rules.fixed_fee
    close(state, fills, trades, index, price, reference, fee, reason)


@leaf
def reduce(
    state: State, rules: Rules, fills: Rows[Fill], trades: Rows[Trade], index: int, wanted: float, reference: float
) -> None:
    """Reduce to a wanted quantity of the same sign by a market order."""
    side = -1.0 if state.quantity > 0.0 else 1.0
    held = abs(state.quantity)
    quantity = rounded(held - abs(wanted), rules.step_size)
    price = reference * (1.0 + side * rules.slippage)
    notional = quantity * price
    equity = worth(state, reference)
    if not quantity > 0.0 or notional < rules.min_notional or notional <= DUST * equity:
        return
    if quantity >= held:
        close_market(state, rules, fills, trades, index, reference, SIGNAL)
        return
    fee = notional * rules.taker_fee + rules.fixed_fee
    no_shorts = rules.perpetual == 0 and side < 0.0 and state.elsewhere == state.pledged
    if no_shorts and state.cash + notional < fee:
        return  # what it brings does not pay for it
    book(state, side, quantity, price, reference, fee)
    state.quantity = -side * (held - quantity)
    state.exit_value += notional
    state.exit_price = price
    state.reductions += 1
    log_fill(state, fills, index, side, quantity, price, fee, SIGNAL)
