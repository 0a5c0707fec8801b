"""The loop over klines: one kline after another in the order docs/execution.md gives, all state in one record."""

from __future__ import annotations

import math

import numpy as np

from klinecast.types import FloatColumn, TimeColumn
from services.backtest.engine.decisions import act, fill_resting
from services.backtest.engine.jit import compiled, leaf
from services.backtest.engine.orders import close, close_market, log_trade
from services.backtest.engine.protection import LIQUIDATION, arm, raise_best, run_protection
from services.backtest.engine.records import ADVANCE_SIGNATURE, CLOSE_SIGNATURE, Fill, Rows, Rules, State, Trade

FREE_ROWS = 8
"""Free rows of fills and trades that one kline may need at most."""
END = 6
NEVER_MS = np.iinfo(np.int64).max


@leaf
def value_at(column: FloatColumn, index: int, otherwise: float) -> float:
    """Return a value of an optional column (length 0 = not given)."""
    return column[index] if len(column) else otherwise


@leaf
def ruin(state: State, fills: Rows[Fill], trades: Rows[Trade], index: int, price: float) -> None:
    """Close what is held at a price, without fee; equity is 0 from here on."""
    if state.quantity != 0.0:
        close(state, fills, trades, index, price, price, 0.0, LIQUIDATION)
    state.cash = 0.0
    state.resting = 0
    state.ruined_at = index


@leaf
def pay_funding(
    state: State, times: TimeColumn, rates: FloatColumn, marks: FloatColumn, before_ms: int, price: float
) -> None:
    """Pay or receive every funding record due before an instant, on the quantity held."""
    while state.funding_at < len(times) and times[state.funding_at] < before_ms:
        mark = marks[state.funding_at]
        paid = state.quantity * (price if math.isnan(mark) else mark) * rates[state.funding_at]
        state.cash -= paid
        state.trade_funding += paid
        state.total_funding += paid
        state.funding_at += 1


@leaf
def coast(
    state: State, rules: Rules, open_ms: TimeColumn,
    opens: FloatColumn, highs: FloatColumn, lows: FloatColumn, closes: FloatColumn, target: FloatColumn,
    funding_ms: TimeColumn, equity: FloatColumn, start: int, stop: int,
) -> int:  # fmt: skip
    """Mark klines in which nothing can happen; return the first in which something may, for the full step.

    What it looks at stands in local variables, so that a kline costs its comparisons and no access to the state.
    """
    late = 1 - rules.this_close
    if rules.every_kline == 1 or state.resting != 0 or (late == 1 and start == 0):
        return start
    cash, quantity, acted = state.cash, state.quantity, state.acted
    waits = state.locked == 1 and rules.next_decision == 1
    end = next_decision(target, start - late, stop - late, acted, waits) + late
    if len(funding_ms) or (quantity != 0.0 and not is_safe(state)):
        end = next_event(state, open_ms, opens, highs, lows, closes, funding_ms, start, end)
    for i in range(start, end):
        equity[i] = cash + quantity * closes[i]
    return end


@leaf
def next_decision(target: FloatColumn, start: int, stop: int, acted: float, waits: bool) -> int:
    """Return the first place whose decision may be acted on, stop where there is none."""
    for i in range(start, stop):
        if (target[i] != acted or waits) and not math.isnan(target[i]):
            return i
    return stop


@leaf
def is_safe(state: State) -> bool:
    """Tell whether a position can neither reach a level nor lose all: a long one, paid for, without protection."""
    paid = state.quantity > 0.0 and state.cash >= 0.0
    return paid and state.alarm_low == -np.inf and state.alarm_high == np.inf and math.isnan(state.trailing_stop)


@leaf
def next_event(
    state: State, open_ms: TimeColumn, opens: FloatColumn, highs: FloatColumn, lows: FloatColumn, closes: FloatColumn,
    funding_ms: TimeColumn, start: int, stop: int,
) -> int:  # fmt: skip
    """Return the first kline that may touch a level of the position, move its best, ruin it, or owe funding."""
    cash, quantity = state.cash, state.quantity
    low, high = -np.inf, np.inf
    if quantity != 0.0:
        low, high = state.alarm_low, state.alarm_high
        if not math.isnan(state.trailing_stop):
            if quantity > 0.0:
                high = min(high, np.nextafter(state.best, np.inf))
            else:
                low = max(low, np.nextafter(state.best, -np.inf))
    due_ms = funding_ms[state.funding_at] if state.funding_at < len(funding_ms) else NEVER_MS
    due_ms -= max(state.span_ms, 1)
    for i in range(start, stop):
        if lows[i] <= low or highs[i] >= high or due_ms < open_ms[i]:
            return i
        if cash + quantity * opens[i] <= 0.0 or cash + quantity * closes[i] <= 0.0:
            return i
    return stop


@compiled(ADVANCE_SIGNATURE)
def advance(
    states: Rows[State], rule_rows: Rows[Rules], open_ms: TimeColumn,
    opens: FloatColumn, highs: FloatColumn, lows: FloatColumn, closes: FloatColumn,
    target: FloatColumn, stop_loss: FloatColumn, take_profit: FloatColumn, trailing_stop: FloatColumn,
    limit_price: FloatColumn, stop_price: FloatColumn,
    funding_ms: TimeColumn, funding_rate: FloatColumn, funding_mark: FloatColumn,
    finer_start: TimeColumn, finer_end: TimeColumn,
    finer_open: FloatColumn, finer_high: FloatColumn, finer_low: FloatColumn,
    equity: FloatColumn, fills: Rows[Fill], trades: Rows[Trade], start: int, stop: int,
) -> int:  # fmt: skip
    """Simulate klines [start, stop); return the first kline not done (before stop where a log is full)."""
    state = states[0]
    rules = rule_rows[0]
    base = state.next_index - start
    i = start - 1
    while True:
        i += 1
        if i < stop and state.ruined_at < 0:
            i = coast(state, rules, open_ms, opens, highs, lows, closes, target, funding_ms, equity, i, stop)
            state.next_index = base + i
        if i >= stop:
            break
        if state.fill_count + FREE_ROWS > len(fills):
            return i
        index = base + i
        if state.ruined_at < 0:
            price = opens[i]
            if len(funding_ms):
                pay_funding(state, funding_ms, funding_rate, funding_mark, open_ms[i] + 1, price)
            if state.cash + state.quantity * price <= 0.0:
                ruin(state, fills, trades, index, price)
        if state.ruined_at < 0:
            if rules.this_close == 0:
                decision = target[i - 1] if i else state.pending_target
                idle = math.isnan(decision) or (decision == state.acted and state.locked == 0 and state.resting == 0)
                if not idle or rules.every_kline == 1:
                    act(
                        state, rules, fills, trades, index, price, True, decision,
                        value_at(stop_loss, i - 1, rules.stop_loss) if i else state.pending_stop_loss,
                        value_at(take_profit, i - 1, rules.take_profit) if i else state.pending_take_profit,
                        value_at(trailing_stop, i - 1, rules.trailing_stop) if i else state.pending_trailing_stop,
                        value_at(limit_price, i - 1, np.nan) if i else state.pending_limit_price,
                        value_at(stop_price, i - 1, np.nan) if i else state.pending_stop_price,
                    )  # fmt: skip
                    arm(state, rules)
            if len(funding_ms):
                end_ms = open_ms[i] + state.span_ms
                if i + 1 < len(open_ms):
                    end_ms = min(end_ms, open_ms[i + 1])
                pay_funding(state, funding_ms, funding_rate, funding_mark, end_ms, price)
            exited = False
            if state.quantity != 0.0:
                if lows[i] <= state.alarm_low or highs[i] >= state.alarm_high:
                    finer_from, finer_to = (finer_start[i], finer_end[i]) if len(finer_start) else (0, 0)
                    exited = run_protection(
                        state, rules, fills, trades, index, price, highs[i], lows[i],
                        finer_open, finer_high, finer_low, finer_from, finer_to,
                    )  # fmt: skip
                if not (exited or math.isnan(state.trailing_stop)) and index >= state.best_after:
                    raise_best(state, rules, highs[i], lows[i])
            if state.resting != 0 and not exited:
                fill_resting(state, rules, fills, index, price, highs[i], lows[i])
                arm(state, rules)
            price = closes[i]
            if rules.this_close == 1:
                decision = target[i]
                idle = math.isnan(decision) or (decision == state.acted and state.locked == 0 and state.resting == 0)
                if not idle or rules.every_kline == 1:
                    act(
                        state, rules, fills, trades, index, price, False, decision,
                        value_at(stop_loss, i, rules.stop_loss),
                        value_at(take_profit, i, rules.take_profit),
                        value_at(trailing_stop, i, rules.trailing_stop),
                        value_at(limit_price, i, np.nan),
                        value_at(stop_price, i, np.nan),
                    )  # fmt: skip
                    arm(state, rules)
            if state.cash + state.quantity * price <= 0.0:
                ruin(state, fills, trades, index, price)
        equity[i] = state.cash + state.quantity * closes[i]
        state.next_index = index + 1
    last = stop - 1
    if last >= start:
        state.equity = equity[last]
        state.last_close = closes[last]
        state.last_open_ms = open_ms[last]
        state.pending_target = target[last]
        state.pending_stop_loss = value_at(stop_loss, last, rules.stop_loss)
        state.pending_take_profit = value_at(take_profit, last, rules.take_profit)
        state.pending_trailing_stop = value_at(trailing_stop, last, rules.trailing_stop)
        state.pending_limit_price = value_at(limit_price, last, np.nan)
        state.pending_stop_price = value_at(stop_price, last, np.nan)
    return stop


@compiled(CLOSE_SIGNATURE)
def end_run(
    states: Rows[State], rule_rows: Rows[Rules], fills: Rows[Fill], trades: Rows[Trade], price: float, close_at_end: int
) -> None:
    """Close the position at the last close, or log the open trade with its remainder valued there."""
    state = states[0]
    if state.quantity == 0.0:
        return
    if close_at_end == 1:
        close_market(state, rule_rows[0], fills, trades, state.next_index - 1, price, END)
        state.equity = state.cash
    else:
        side = 1.0 if state.quantity > 0.0 else -1.0
        log_trade(state, trades, side, -1, abs(state.quantity) * price, 0)
