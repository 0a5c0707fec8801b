"""The loop over instants of an account that trades several series, by the leaves of the loop over one."""

from __future__ import annotations

import math

import numba
import numpy as np

from klinecast.types import FloatColumn, TimeColumn
from services.backtest.engine.decisions import NOT_DUE, RESTS_ANEW, enlarge, fill_resting, lower, take
from services.backtest.engine.jit import compiled, leaf
from services.backtest.engine.kernel import END, FREE_ROWS, pay_funding, value_at
from services.backtest.engine.orders import close, close_market, log_trade
from services.backtest.engine.protection import LIQUIDATION, arm, raise_best, run_protection
from services.backtest.engine.records import FILLS, RULES, STATES, TRADES, Fill, Rows, Rules, State, Table, Trade

_F, _I, _FS, _IS = numba.float64, numba.int64, numba.float64[::1], numba.int64[::1]
_FILL_TABLE, _TRADE_TABLE = FILLS.dtype[:, ::1], TRADES.dtype[:, ::1]
NOT_HERE, IDLE, TAKEN = 0, 1, 2

ADVANCE_SHARED_SIGNATURE = _I(
    STATES, RULES, _IS, _IS, _IS, *[_FS] * 4, *[_FS] * 6, _IS, _IS, _FS, _FS,
    _FS, _IS, _FS, _FS, _FS, _FILL_TABLE, _TRADE_TABLE, _I, _I,
)  # fmt: skip
END_SHARED_SIGNATURE = numba.void(STATES, RULES, _FS, _FS, _FILL_TABLE, _TRADE_TABLE, _I)


@leaf
def enter(states: Rows[State], account: FloatColumn, marks: FloatColumn, one: int) -> None:
    """Show a series the account: its cash, and what the other positions are worth now."""
    value, gross = 0.0, 0.0
    for other in range(len(states)):
        if other != one and states[other].quantity != 0.0:
            worth = states[other].quantity * marks[other]
            value += worth
            gross += abs(worth)
    state = states[one]
    state.cash = account[0]
    state.elsewhere = value
    state.pledged = gross


@leaf
def leave(states: Rows[State], account: FloatColumn, one: int) -> None:
    """Take the cash back."""
    account[0] = states[one].cash


@leaf
def equity_of(states: Rows[State], account: FloatColumn, marks: FloatColumn) -> float:
    """Return what the account is worth."""
    total: float = account[0]
    for one in range(len(states)):
        if states[one].quantity != 0.0:
            total += states[one].quantity * marks[one]
    return total


@leaf
def ruin_all(
    states: Rows[State], account: FloatColumn, marks: FloatColumn, fills: Table[Fill], trades: Table[Trade]
) -> None:
    """Close everything at its mark, without fee; equity is 0 from here on."""
    for one in range(len(states)):
        state = states[one]
        if state.quantity != 0.0:
            enter(states, account, marks, one)
            index = max(state.next_index - 1, 0)
            close(state, fills[one], trades[one], index, marks[one], marks[one], 0.0, LIQUIDATION)
            leave(states, account, one)
        state.resting = 0
        state.ruined_at = max(state.next_index - 1, 0)
    account[0] = 0.0


@leaf
def trade_all(
    states: Rows[State], rules: Rules, offsets: TimeColumn, here: TimeColumn, account: FloatColumn, marks: FloatColumn,
    target: FloatColumn, stop_loss: FloatColumn, take_profit: FloatColumn, trailing_stop: FloatColumn,
    limit_price: FloatColumn, stop_price: FloatColumn, fills: Table[Fill], trades: Table[Trade], late: int,
) -> None:  # fmt: skip
    """Act on the decisions due at this instant: reductions of all series first, then increases in their order."""
    for one in range(len(states)):
        state = states[one]
        if here[one] == NOT_HERE:
            continue
        here[one] = IDLE
        index = state.next_index - 1
        if index < late:
            continue
        at = offsets[one] + index - late
        idle = math.isnan(target[at]) or (target[at] == state.acted and state.locked == 0 and state.resting == 0)
        if idle and rules.every_kline == 0:
            continue
        enter(states, account, marks, one)
        due = take(
            state, rules, marks[one], target[at],
            value_at(stop_loss, at, rules.stop_loss), value_at(take_profit, at, rules.take_profit),
            value_at(trailing_stop, at, rules.trailing_stop),
            value_at(limit_price, at, np.nan), value_at(stop_price, at, np.nan),
        )  # fmt: skip
        if due != NOT_DUE:
            if due == RESTS_ANEW or not lower(state, rules, fills[one], trades[one], index, marks[one]):
                here[one] = TAKEN
            arm(state, rules)
        leave(states, account, one)
    for one in range(len(states)):
        if here[one] != TAKEN:
            continue
        state = states[one]
        at = offsets[one] + state.next_index - 1 - late
        enter(states, account, marks, one)
        enlarge(
            state, rules, fills[one], state.next_index - 1, marks[one], late == 1, target[at],
            value_at(limit_price, at, np.nan), value_at(stop_price, at, np.nan),
        )  # fmt: skip
        arm(state, rules)
        leave(states, account, one)


@compiled(ADVANCE_SHARED_SIGNATURE)
def advance_shared(
    states: Rows[State], rule_rows: Rows[Rules], timeline: TimeColumn, offsets: TimeColumn, open_ms: TimeColumn,
    opens: FloatColumn, highs: FloatColumn, lows: FloatColumn, closes: FloatColumn,
    target: FloatColumn, stop_loss: FloatColumn, take_profit: FloatColumn, trailing_stop: FloatColumn,
    limit_price: FloatColumn, stop_price: FloatColumn,
    funding_offsets: TimeColumn, funding_ms: TimeColumn, funding_rate: FloatColumn, funding_mark: FloatColumn,
    account: FloatColumn, here: TimeColumn, marks: FloatColumn, equity: FloatColumn, gross: FloatColumn,
    fills: Table[Fill], trades: Table[Trade], start: int, stop: int,
) -> int:  # fmt: skip
    """Simulate instants [start, stop) of the timeline; return the first not done (before stop where a log is full).

    Columns of all series stand one after another, series `one` from offsets[one] to offsets[one + 1].
    """
    rules = rule_rows[0]
    for t in range(start, stop):
        for one in range(len(states)):
            if states[one].fill_count + FREE_ROWS > fills.shape[1]:
                return t
        for one in range(len(states)):
            state = states[one]
            at = offsets[one] + state.next_index
            here[one] = NOT_HERE
            if at < offsets[one + 1] and open_ms[at] == timeline[t]:
                here[one] = IDLE
                state.next_index += 1
                marks[one] = opens[at]
        if states[0].ruined_at >= 0:
            equity[t], gross[t] = 0.0, 0.0
            continue
        for one in range(len(states)):
            owed = funding_ms[funding_offsets[one] : funding_offsets[one + 1]]
            if here[one] != NOT_HERE and len(owed):
                enter(states, account, marks, one)
                rates = funding_rate[funding_offsets[one] : funding_offsets[one + 1]]
                paid_at = funding_mark[funding_offsets[one] : funding_offsets[one + 1]]
                pay_funding(states[one], owed, rates, paid_at, timeline[t] + 1, marks[one])
                leave(states, account, one)
        if equity_of(states, account, marks) <= 0.0:
            ruin_all(states, account, marks, fills, trades)
            equity[t], gross[t] = 0.0, 0.0
            continue
        if rules.this_close == 0:
            trade_all(
                states, rules, offsets, here, account, marks, target, stop_loss, take_profit, trailing_stop,
                limit_price, stop_price, fills, trades, 1,
            )  # fmt: skip
        for one in range(len(states)):
            state = states[one]
            if here[one] == NOT_HERE:
                continue
            index = state.next_index - 1
            at = offsets[one] + index
            owed = funding_ms[funding_offsets[one] : funding_offsets[one + 1]]
            if len(owed):
                end_ms = open_ms[at] + state.span_ms
                if at + 1 < offsets[one + 1]:
                    end_ms = min(end_ms, open_ms[at + 1])
                enter(states, account, marks, one)
                rates = funding_rate[funding_offsets[one] : funding_offsets[one + 1]]
                paid_at = funding_mark[funding_offsets[one] : funding_offsets[one + 1]]
                pay_funding(state, owed, rates, paid_at, end_ms, opens[at])
                leave(states, account, one)
            exited = False
            if state.quantity != 0.0:
                if lows[at] <= state.alarm_low or highs[at] >= state.alarm_high:
                    enter(states, account, marks, one)
                    exited = run_protection(
                        state, rules, fills[one], trades[one], index, opens[at], highs[at], lows[at],
                        opens[:0], highs[:0], lows[:0], 0, 0,
                    )  # fmt: skip
                    leave(states, account, one)
                if not (exited or math.isnan(state.trailing_stop)) and index >= state.best_after:
                    raise_best(state, rules, highs[at], lows[at])
            if state.resting != 0 and not exited:
                enter(states, account, marks, one)
                fill_resting(state, rules, fills[one], index, opens[at], highs[at], lows[at])
                arm(state, rules)
                leave(states, account, one)
        for one in range(len(states)):
            if here[one] != NOT_HERE:
                marks[one] = closes[offsets[one] + states[one].next_index - 1]
        if rules.this_close == 1:
            trade_all(
                states, rules, offsets, here, account, marks, target, stop_loss, take_profit, trailing_stop,
                limit_price, stop_price, fills, trades, 0,
            )  # fmt: skip
        if equity_of(states, account, marks) <= 0.0:
            ruin_all(states, account, marks, fills, trades)
        equity[t] = equity_of(states, account, marks)
        held = 0.0
        for one in range(len(states)):
            held += abs(states[one].quantity * marks[one])
        gross[t] = held
    return stop


@compiled(END_SHARED_SIGNATURE)
def end_shared(
    states: Rows[State], rule_rows: Rows[Rules], account: FloatColumn, marks: FloatColumn,
    fills: Table[Fill], trades: Table[Trade], close_at_end: int,
) -> None:  # fmt: skip
    """Close every position at its last close, or log the open trades with their remainders valued there."""
    for one in range(len(states)):
        state = states[one]
        if state.quantity == 0.0:
            continue
        if close_at_end == 1:
            enter(states, account, marks, one)
            close_market(state, rule_rows[0], fills[one], trades[one], state.next_index - 1, marks[one], END)
            leave(states, account, one)
        else:
            side = 1.0 if state.quantity > 0.0 else -1.0
            log_trade(state, trades[one], side, -1, abs(state.quantity) * marks[one], 0)
