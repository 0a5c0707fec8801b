"""njit leaves: liquidation and protective orders inside a kline.

A position is looked at as if it were long: `sign` mirrors prices of a short, so that "beyond" has one meaning.
"""

from __future__ import annotations

import math

import numpy as np

from klinecast.types import FloatColumn
from services.backtest.engine.jit import leaf
from services.backtest.engine.orders import close
from services.backtest.engine.records import NEAREST_FIRST, STOP_FIRST, TARGET_FIRST, Fill, Rows, Rules, State, Trade

STOP_LOSS, TAKE_PROFIT, TRAILING_STOP, LIQUIDATION = 2, 3, 4, 5


@leaf
def reaches(rules: Rules, distance: float) -> bool:
    """Tell whether a price that went `distance` beyond a level touched it; NaN never does."""
    return distance > 0.0 or (distance == 0.0 and rules.strict == 0)


@leaf
def positive(level: float) -> float:
    """Return the level, or NaN where it is one no price reaches."""
    return level if level > 0.0 else np.nan


@leaf
def stop_level(state: State, sign: float) -> tuple[float, int]:
    """Return the tighter of stop and trailing stop, NaN = none, and its reason."""
    stop = positive(state.entry * (1.0 - sign * state.stop_loss))
    trailing = positive(state.best * (1.0 - sign * state.trailing_stop))
    if math.isnan(stop) or sign * trailing > sign * stop:
        return trailing, TRAILING_STOP
    return stop, STOP_LOSS


@leaf
def arm(state: State, rules: Rules) -> None:
    """Note between which prices nothing of the position can be touched, so that most klines need one comparison."""
    state.alarm_low, state.alarm_high = -np.inf, np.inf
    if state.quantity == 0.0:
        return
    sign = 1.0 if state.quantity > 0.0 else -1.0
    stop = stop_level(state, sign)[0]
    target = positive(state.entry * (1.0 + sign * state.take_profit))
    below, above = (stop, target) if sign > 0.0 else (target, stop)
    if not math.isnan(below):
        state.alarm_low = below
    if not math.isnan(above):
        state.alarm_high = above
    if rules.perpetual == 1:
        state.alarm_low = np.inf  # liquidation moves with cash: look at every kline


@leaf
def raise_best(state: State, rules: Rules, high: float, low: float) -> None:
    """Let a kline whose protective step is over move the trailing best."""
    best = max(state.best, high) if state.quantity > 0.0 else min(state.best, low)
    if best != state.best:
        state.best = best
        arm(state, rules)


@leaf
def liquidation_price(state: State, rules: Rules, sign: float, maintenance: float) -> float:
    """Return the price at which margin falls to the maintenance margin, NaN = never; maintenance 0 gives bankruptcy."""
    if rules.cross == 1:
        return positive(state.cash / (maintenance * abs(state.quantity) - state.quantity))
    return positive(state.entry * (1.0 - sign / rules.max_leverage) / (1.0 - sign * maintenance))


@leaf
def resolve(
    state: State, rules: Rules, sign: float, stop: float, target: float, kline_open: float, high: float, low: float,
    finer_open: FloatColumn, finer_high: FloatColumn, finer_low: FloatColumn, start: int, end: int,
) -> bool:  # fmt: skip
    """Tell whether the stop comes first in a kline that touches both; finer klines decide where they cover it."""
    state.ambiguous += 1
    if end <= start or not covers(high, low, finer_high, finer_low, start, end):
        return stop_wins(state, rules, stop, target, kline_open)
    state.ambiguous -= 1
    state.resolved += 1
    for at in range(start, end):
        adverse = finer_low[at] if sign > 0.0 else finer_high[at]
        favourable = finer_high[at] if sign > 0.0 else finer_low[at]
        stop_touched = reaches(rules, sign * (stop - adverse))
        target_touched = reaches(rules, sign * (favourable - target))
        if stop_touched and target_touched:
            if sign * (stop - finer_open[at]) >= 0.0:
                return True
            if sign * (finer_open[at] - target) >= 0.0:
                return False
            return stop_wins(state, rules, stop, target, finer_open[at])
        if stop_touched or target_touched:
            return stop_touched
    return True


@leaf
def covers(high: float, low: float, finer_high: FloatColumn, finer_low: FloatColumn, start: int, end: int) -> bool:
    """Tell whether finer klines have the kline's high and low."""
    top, bottom = finer_high[start], finer_low[start]
    for at in range(start + 1, end):
        top = max(top, finer_high[at])
        bottom = min(bottom, finer_low[at])
    return bool(top == high and bottom == low)


@leaf
def stop_wins(state: State, rules: Rules, stop: float, target: float, kline_open: float) -> bool:
    """Decide by the intrabar policy."""
    state.policy_used += 1
    if rules.policy == NEAREST_FIRST:
        return abs(kline_open - stop) <= abs(kline_open - target)
    return rules.policy == STOP_FIRST and rules.policy != TARGET_FIRST


@leaf
def liquidate(
    state: State, rules: Rules, fills: Rows[Fill], trades: Rows[Trade], index: int, sign: float, price: float
) -> None:
    """Close all at a liquidation: never worse than bankruptcy, the fee cut to the margin left."""
    bankruptcy = liquidation_price(state, rules, sign, 0.0)
    if not math.isnan(bankruptcy) and sign * price < sign * bankruptcy:
        price = bankruptcy
    quantity = abs(state.quantity)
    margin = quantity * state.entry / rules.max_leverage + state.quantity * (price - state.entry)
    if rules.cross == 1:
        margin = state.cash + state.quantity * price
    fee = min(quantity * price * rules.liquidation_fee + rules.fixed_fee, max(margin, 0.0))
    close(state, fills, trades, index, price, price, fee, LIQUIDATION)


@leaf
def adverse_price(rules: Rules, sign: float, level: float, kline_open: float, favourable: float) -> float:
    """Return where a touched stop or liquidation fills, before slippage."""
    whole_kline_beyond = sign * favourable < sign * level
    if rules.at_level == 1:
        return kline_open if whole_kline_beyond else level
    return kline_open if sign * (level - kline_open) >= 0.0 else level


@leaf
def target_price(rules: Rules, sign: float, level: float, kline_open: float, adverse: float) -> float:
    """Return where a touched target fills; what is beyond it is a gain."""
    better = adverse if rules.at_level == 1 else kline_open
    return better if sign * (better - level) > 0.0 else level


@leaf
def nearest_adverse(
    rules: Rules, sign: float, stop: float, liquidation: float, kline_open: float, adverse: float
) -> bool:
    """Tell whether liquidation comes before the stop: the one the open is beyond, then the nearer; equal: the stop."""
    if not reaches(rules, sign * (liquidation - adverse)):
        return False
    if not reaches(rules, sign * (stop - adverse)):
        return True
    stop_gapped = sign * (stop - kline_open) >= 0.0
    if stop_gapped != (sign * (liquidation - kline_open) >= 0.0):
        return not stop_gapped
    return abs(kline_open - liquidation) < abs(kline_open - stop)


@leaf
def run_protection(
    state: State, rules: Rules, fills: Rows[Fill], trades: Rows[Trade],
    index: int, kline_open: float, high: float, low: float,
    finer_open: FloatColumn, finer_high: FloatColumn, finer_low: FloatColumn, start: int, end: int,
) -> bool:  # fmt: skip
    """Run liquidation and protective orders over one kline; tell whether one closed the position."""
    sign = 1.0 if state.quantity > 0.0 else -1.0
    adverse = low if sign > 0.0 else high
    favourable = high if sign > 0.0 else low
    stop, reason, target = np.nan, STOP_LOSS, np.nan
    if index >= state.protect_after:
        stop, reason = stop_level(state, sign)
        target = positive(state.entry * (1.0 + sign * state.take_profit))
    if rules.perpetual == 1:
        liquidation = liquidation_price(state, rules, sign, rules.maintenance)
        if nearest_adverse(rules, sign, stop, liquidation, kline_open, adverse):
            stop, reason = liquidation, LIQUIDATION
    stopped = reaches(rules, sign * (stop - adverse))
    won = reaches(rules, sign * (favourable - target))
    if not stopped and not won:
        return False
    if stopped and won:
        if sign * (stop - kline_open) >= 0.0:
            won = False
        elif sign * (kline_open - target) >= 0.0:
            stopped = False
        else:
            stopped = resolve(
                state, rules, sign, stop, target, kline_open, high, low,
                finer_open, finer_high, finer_low, start, end,
            )  # fmt: skip
    state.locked = 1
    state.resting = 0
    quantity = abs(state.quantity)
    if not stopped:
        price = target_price(rules, sign, target, kline_open, adverse)
        fee = quantity * price * rules.maker_fee + rules.fixed_fee
        close(state, fills, trades, index, price, price, fee, TAKE_PROFIT)
        return True
    reference = adverse_price(rules, sign, stop, kline_open, favourable)
    if reason == LIQUIDATION:
        liquidate(state, rules, fills, trades, index, sign, reference)
        return True
    price = reference * (1.0 - sign * rules.slippage)
    fee = quantity * price * rules.taker_fee + rules.fixed_fee
    close(state, fills, trades, index, price, reference, fee, reason)
    return True
