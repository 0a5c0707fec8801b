"""njit leaves: what a decision does when its time comes, and how resting entries fill."""

from __future__ import annotations

import math

import numpy as np

from services.backtest.engine.jit import leaf
from services.backtest.engine.orders import SIGNAL, close_market, increase, reduce, wanted_quantity, worth
from services.backtest.engine.records import LIMIT, MARKET, STOP, Fill, Rows, Rules, State, Trade

NOT_DUE, DUE, RESTS_ANEW = 0, 1, 2
"""Nothing to do; trade towards the target; only put the entry to rest at another price."""


@leaf
def protect(
    state: State, stop_loss: float, take_profit: float, trailing_stop: float, first: int, best_first: int
) -> None:
    """Give a new position its distances and the klines from which they act."""
    state.stop_loss = stop_loss
    state.take_profit = take_profit
    state.trailing_stop = trailing_stop
    state.protect_after = first
    state.best_after = best_first


@leaf
def how_due(state: State, rules: Rules, fresh: bool, kind: int, price: float) -> int:
    """Tell how a decision is acted on (NOT_DUE, DUE, RESTS_ANEW), and forget the entry it replaces."""
    changed = state.target != state.acted
    woken = state.locked == 1 and fresh and rules.next_decision == 1
    replaced = (
        fresh and state.resting != 0 and kind != MARKET and (kind != state.resting or price != state.resting_price)
    )
    if changed or woken or replaced:
        state.resting = 0
    if changed or woken or (rules.every_kline == 1 and state.locked == 0):
        return DUE
    return RESTS_ANEW if replaced else NOT_DUE


@leaf
def act(
    state: State, rules: Rules, fills: Rows[Fill], trades: Rows[Trade], index: int, reference: float, at_open: bool,
    decision: float, stop_loss: float, take_profit: float, trailing_stop: float, limit_price: float, stop_price: float,
) -> None:  # fmt: skip
    """Act on a decision whose time came: close, reduce, increase at the market, or put an entry to rest."""
    due = take(state, rules, reference, decision, stop_loss, take_profit, trailing_stop, limit_price, stop_price)
    if due == NOT_DUE:
        return
    if due == RESTS_ANEW or not lower(state, rules, fills, trades, index, reference):
        enlarge(state, rules, fills, index, reference, at_open, decision, limit_price, stop_price)


@leaf
def take(
    state: State, rules: Rules, reference: float, decision: float,
    stop_loss: float, take_profit: float, trailing_stop: float, limit_price: float, stop_price: float,
) -> int:  # fmt: skip
    """Take note of a decision; tell how it is acted on: NOT_DUE where there is nothing to trade."""
    fresh = not math.isnan(decision)
    kind = LIMIT if not math.isnan(limit_price) else STOP if not math.isnan(stop_price) else MARKET
    price = limit_price if kind == LIMIT else stop_price
    if fresh:
        state.target = decision
        state.target_kind = kind
        state.target_stop_loss = stop_loss
        state.target_take_profit = take_profit
        state.target_trailing_stop = trailing_stop
    due = how_due(state, rules, fresh, kind, price)
    if due == NOT_DUE:
        return NOT_DUE
    state.acted = state.target
    state.locked = 0
    equity = worth(state, reference)
    if equity <= 0.0:
        return NOT_DUE
    wanted = wanted_quantity(state.target, rules.unit, equity, reference)
    off = abs(wanted - state.quantity) * reference
    return due if rules.every_kline == 0 or off > rules.tolerance * equity else NOT_DUE


@leaf
def lower(state: State, rules: Rules, fills: Rows[Fill], trades: Rows[Trade], index: int, reference: float) -> bool:
    """Close or reduce towards the target; tell whether nothing is to be opened or increased after it."""
    wanted = wanted_quantity(state.target, rules.unit, worth(state, reference), reference)
    if state.quantity != 0.0 and not wanted * math.copysign(1.0, state.quantity) > 0.0:
        close_market(state, rules, fills, trades, index, reference, SIGNAL)
        return wanted == 0.0
    if abs(wanted) < abs(state.quantity):
        reduce(state, rules, fills, trades, index, wanted, reference)
        return True
    return False


@leaf
def enlarge(
    state: State, rules: Rules, fills: Rows[Fill], index: int, reference: float, at_open: bool, decision: float,
    limit_price: float, stop_price: float,
) -> None:  # fmt: skip
    """Open or increase towards the target, at the market or by an entry that rests."""
    equity = worth(state, reference)
    wanted = wanted_quantity(state.target, rules.unit, equity, reference)
    if equity <= 0.0 or abs(wanted) <= abs(state.quantity) or state.resting != 0:
        return
    if state.target_kind != MARKET:
        if not math.isnan(decision):
            price = limit_price if state.target_kind == LIMIT else stop_price
            rest(state, rules, price)
        return
    if increase(state, rules, fills, index, wanted, reference, rules.slippage, rules.taker_fee):
        first = index if at_open and rules.next_kline == 0 else index + 1
        protect(
            state, state.target_stop_loss, state.target_take_profit, state.target_trailing_stop,
            first, index if at_open else index + 1,
        )  # fmt: skip


@leaf
def rest(state: State, rules: Rules, price: float) -> None:
    """Put an entry to rest."""
    state.resting = state.target_kind
    state.resting_price = price
    state.resting_left = rules.order_klines
    state.resting_target = state.target
    state.resting_stop_loss = state.target_stop_loss
    state.resting_take_profit = state.target_take_profit
    state.resting_trailing_stop = state.target_trailing_stop


@leaf
def resting_fill_price(state: State, rules: Rules, kline_open: float, high: float, low: float) -> float:
    """Return the price at which the resting entry fills in this kline, before slippage; NaN = it does not."""
    price = state.resting_price
    buys = state.resting_target > 0.0
    waits_for_low = buys == (state.resting == LIMIT)
    extreme = low if waits_for_low else high
    distance = price - extreme if waits_for_low else extreme - price
    if distance < 0.0 or (rules.strict == 1 and distance == 0.0):
        return np.nan
    if state.resting == LIMIT and rules.at_level == 1:
        return price
    return min(price, kline_open) if waits_for_low else max(price, kline_open)


@leaf
def fill_resting(
    state: State, rules: Rules, fills: Rows[Fill], index: int, kline_open: float, high: float, low: float
) -> None:
    """Fill the resting entry if the kline reaches it, else let it grow older."""
    reference = resting_fill_price(state, rules, kline_open, high, low)
    state.resting_left -= 1
    if math.isnan(reference):
        if state.resting_left <= 0:
            state.resting = 0
        return
    limit = state.resting == LIMIT
    state.resting = 0
    equity = worth(state, reference)
    wanted = wanted_quantity(state.resting_target, rules.unit, equity, reference)
    if equity <= 0.0 or abs(wanted) <= abs(state.quantity) or wanted * state.quantity < 0.0:
        return
    slippage = 0.0 if limit else rules.slippage
    fee_rate = rules.maker_fee if limit else rules.taker_fee
    if increase(state, rules, fills, index, wanted, reference, slippage, fee_rate):
        protect(
            state, state.resting_stop_loss, state.resting_take_profit, state.resting_trailing_stop, index + 1, index + 1
        )
