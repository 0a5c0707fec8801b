"""The execution model once more, in plain Python: written from its description alone, sharing no code with the engine.

Slow and simple on purpose. Leaves out finer klines, continued runs and event-driven strategies.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from klinecast.types import ExecutionModel, FillReason, FundingColumns, KlineColumns, Signals

NAN = math.nan
SIGNAL, STOP_LOSS, TAKE_PROFIT, TRAILING_STOP, LIQUIDATION, END = (int(reason) for reason in FillReason)
MINUTE_MS = 60_000

Fill = tuple[int, int, float, float, float, int]
"""kline_index, side, quantity, price, fee, reason: the columns of FILL_DTYPE."""
Trade = tuple[int, int, int, float, float, float, float, float, float, int]
"""The columns of TRADE_DTYPE."""
Payments = list[list[tuple[float, float]]]
"""Funding of each kline: rate, and mark price or NaN."""
Funding = FundingColumns | None


@dataclass
class ReferenceOutcome:
    """What a run produced."""

    fills: list[Fill]
    trades: list[Trade]
    equity: list[float]
    cash: float
    quantity: float
    ambiguous_klines: int
    ruined_at: int | None
    pending_target: float | None


@dataclass
class Resting:
    """An entry that waits for its price; the size is only known when it fills."""

    decided_at: int
    target: float
    is_limit: bool
    price: float


class Position:
    """The trade that is open: its average cost, its distances, and what it cost so far."""

    def __init__(self, kline: int, side: int, price: float, distances: tuple[float, float, float], guarded: int):
        self.kline = kline
        self.side = side
        self.stop_loss, self.take_profit, self.trailing_stop = distances
        self.guarded_from = guarded  # the first kline in which stop and target act
        self.entry = price
        self.best = price
        self.bought = self.bought_value = 0.0  # increases, whichever way the trade goes
        self.sold_value = self.sold = 0.0  # reductions
        self.fees = self.funding = 0.0

    def row(self, exit_kline: int, reason: int, rest: float, close: float) -> Trade:
        """Return the trade, a quantity that is left being worth the close."""
        out = self.sold_value + rest * close
        profit = self.side * (out - self.bought_value) - self.fees - self.funding
        entry_price, exit_price = self.bought_value / self.bought, out / (self.sold + rest)
        ends = (profit, self.fees, self.funding, reason)
        return (self.kline, exit_kline, self.side, self.bought, entry_price, exit_price, *ends)


class Simulator:
    """One run. Methods are in the order of a kline's steps."""

    def __init__(self, klines: KlineColumns, signals: Signals, execution: ExecutionModel, initial_cash: float):
        self.rules = x = execution
        self.count = len(klines)
        columns = (klines.open, klines.high, klines.low, klines.close)
        self.prices = list(zip(*(column.tolist() for column in columns), strict=True))
        self.targets = signals.target_exposure.tolist()
        self.limits, self.stops = self.listed(signals.limit_price, None), self.listed(signals.stop_price, None)
        distances = ("stop_loss", "take_profit", "trailing_stop")
        self.distances = list(zip(*(self.listed(getattr(signals, n), getattr(x, n)) for n in distances), strict=True))
        self.perpetual = x.market_type == "LINEAR_PERPETUAL"
        self.at_close = x.fill_timing == "THIS_CLOSE"
        self.every_kline = x.rebalance == "EVERY_KLINE"
        self.strict = x.touch_rule == "STRICT"
        self.at_level = x.gap_policy == "AT_LEVEL"
        self.taker = x.taker_fee_bps / 1e4
        self.maker = self.taker if x.maker_fee_bps is None else x.maker_fee_bps / 1e4
        self.slippage = x.slippage_bps / 1e4
        self.cash = initial_cash
        self.held = 0.0
        self.position: Position | None = None
        self.resting: Resting | None = None
        self.target = 0.0  # the last target decided ...
        self.decided_at = 0  # ... and where
        self.acted = 0.0  # the last target acted on
        self.locked = False  # flat since a protective exit
        self.ambiguous = 0
        self.ruined_at: int | None = None
        self.fills, self.trades, self.equity = [], [], []

    def listed(self, column, scalar: float | None) -> list[float]:
        """Return what a strategy gave, or else the scalar, for each kline."""
        return [NAN if scalar is None else scalar] * self.count if column is None else column.tolist()

    def run(self, due: Payments, later: Payments) -> ReferenceOutcome:
        """Go through the klines; due and later hold each kline's funding at its open time and inside."""
        for t, (open_, high, low, close) in enumerate(self.prices):
            self.pay_funding(due[t], open_)
            if self.cash + self.held * open_ <= 0:
                self.ruin(t, open_)
                break
            if not self.at_close and t > 0:
                self.decide(t - 1, t, open_, at_open=True)
            self.pay_funding(later[t], open_)
            closed = self.position is not None and self.protect(t, open_, high, low)
            if self.resting is not None and not closed:
                self.fill_resting(t, open_, high, low)
            if self.at_close and self.cash + self.held * close > 0:
                self.decide(t, t, close, at_open=False)
            if self.cash + self.held * close <= 0:
                self.ruin(t, close)
                break
            self.equity.append(self.cash + self.held * close)
        last, close = self.count - 1, self.prices[-1][3]
        if self.position is not None and self.rules.close_at_end:
            self.market(last, -self.held, close, END)
            self.equity[last] = self.cash
        if self.position is not None:
            self.trades.append(self.position.row(-1, 0, abs(self.held), close))
        in_time = self.at_close or self.ruined_at is not None or math.isnan(self.targets[last])
        account = (self.fills, self.trades, self.equity, self.cash, self.held)
        return ReferenceOutcome(*account, self.ambiguous, self.ruined_at, None if in_time else self.targets[last])

    # Money: funding, fills, ruin.

    def pay_funding(self, records: list[tuple[float, float]], open_: float) -> None:
        """Pay records of (rate, mark price) on the quantity held."""
        for rate, mark in records if self.position is not None else ():
            paid = self.held * (open_ if math.isnan(mark) else mark) * rate
            self.cash -= paid
            self.position.funding += paid

    def ruin(self, t: int, price: float) -> None:
        """End the run: nothing is left from this kline on."""
        self.ruined_at = t
        if self.position is not None:
            self.book(t, -self.held, price, 0.0, LIQUIDATION)
        self.cash = 0.0
        self.equity += [0.0] * (self.count - t)

    def price_of(self, signed: float, reference: float) -> float:
        """Return what a market order pays."""
        return reference * (1 + self.slippage) if signed > 0 else reference * (1 - self.slippage)

    def market(self, t: int, signed: float, reference: float, reason: int) -> None:
        """Fill a market order."""
        price = self.price_of(signed, reference)
        self.book(t, signed, price, abs(signed) * price * self.taker + self.rules.fixed_fee, reason)

    def book(self, t: int, signed: float, price: float, fee: float, reason: int) -> None:
        """Write a fill down: money, average cost, and the trade where it ends."""
        quantity, position, before = abs(signed), self.position, abs(self.held)
        self.held += signed
        self.cash -= signed * price + fee
        self.fills.append((t, 1 if signed > 0 else -1, quantity, price, fee, reason))
        position.fees += fee
        if signed * position.side > 0:
            position.entry += (price - position.entry) * quantity / (before + quantity)
            position.bought += quantity
            position.bought_value += quantity * price
            return
        position.sold += quantity
        position.sold_value += quantity * price
        if quantity == before:
            self.held, self.position = 0.0, None
            self.trades.append(position.row(t, reason, 0.0, 0.0))

    # Decisions.

    def decide(self, decision: int, t: int, price: float, *, at_open: bool) -> None:
        """Act on the decision of a kline at an open or close."""
        target = self.targets[decision]
        fresh = not math.isnan(target)
        changed = unlocked = False
        if fresh:
            changed = target != self.acted
            self.target, self.decided_at = target, decision
            if self.locked and (changed or self.rules.reentry == "NEXT_DECISION"):
                self.locked, unlocked = False, True
        elif not self.every_kline:
            return
        if self.locked:
            return
        limit, stop = self.limits[self.decided_at], self.stops[self.decided_at]
        rests, is_limit = not (math.isnan(limit) and math.isnan(stop)), math.isnan(stop)
        entry = Resting(decision, target, is_limit, limit if is_limit else stop) if rests and fresh else None
        old = self.resting
        if old is not None and (changed or old.decided_at + self.rules.order_klines < t + self.at_close):
            self.resting = None  # replaced, or its time is over
        elif old is not None and entry is not None:
            same = (entry.is_limit, entry.price) == (old.is_limit, old.price)
            entry = None if same else entry  # the same one goes on, its time does too
            self.resting = old if same else None if self.every_kline else entry
        self.acted = self.target
        rests = rests or self.resting is not None
        if self.every_kline or changed or unlocked:
            self.towards(t, price, entry, rests=rests, at_open=at_open)

    def wanted(self, target: float, reference: float) -> float:
        """Return the quantity a target means at a price, before limits and rounding."""
        if self.rules.target_unit == "QUANTITY":
            return target
        if self.rules.target_unit == "NOTIONAL":
            return target / reference
        return target * (self.cash + self.held * reference) / reference

    def towards(self, t: int, price: float, entry: Resting | None, *, rests: bool, at_open: bool) -> None:
        """Order what is missing from the last target: reductions at the market, the rest there or at its price."""
        equity = self.cash + self.held * price
        wanted = self.wanted(self.target, price)
        if self.every_kline and abs(wanted - self.held) * price <= self.rules.rebalance_tolerance * equity:
            return
        if self.held and wanted * self.held <= 0:
            self.market(t, -self.held, price, SIGNAL)
            wanted = self.wanted(self.target, price)
        if abs(wanted) < abs(self.held):
            self.reduce(t, abs(self.held) - abs(wanted), price, equity)
        elif wanted and rests:
            self.resting = entry or self.resting
        elif wanted:
            guarded = t if at_open and self.rules.protect_from == "ENTRY_KLINE" else t + 1
            self.increase(t, wanted, price, self.decided_at, guarded, maker=False)

    def reduce(self, t: int, quantity: float, price: float, equity: float) -> None:
        """Sell (or buy back) a part, unless it is too small."""
        side = 1 if self.held > 0 else -1
        quantity = self.rounded(quantity)
        notional = quantity * self.price_of(-side, price)
        fee = notional * self.taker + self.rules.fixed_fee
        unpaid = not self.perpetual and fee > notional + self.cash
        if not unpaid and not self.too_small(notional, equity):
            self.market(t, -side * quantity, price, SIGNAL)

    def increase(self, t: int, wanted: float, reference: float, decision: int, guarded: int, *, maker: bool) -> None:
        """Open or add up to the wanted quantity, within the leverage limit."""
        side = 1 if wanted > 0 else -1
        price = reference if maker else self.price_of(side, reference)
        rate = self.maker if maker else self.taker
        leverage, fixed = self.rules.max_leverage, self.rules.fixed_fee
        equity = self.cash + self.held * price
        room = (leverage * (equity - fixed) - abs(self.held) * price) / (price * (1 + leverage * rate))
        quantity = abs(wanted) - abs(self.held)
        cut = quantity > room
        quantity = self.rounded(min(quantity, room))
        notional = quantity * price
        if quantity <= 0 or self.too_small(notional, self.cash + self.held * reference):
            return
        if self.position is None:
            self.position = Position(t, side, price, self.distances[decision], guarded)
        self.book(t, side * quantity, price, notional * rate + fixed, SIGNAL)
        if cut and side > 0 and not self.perpetual and leverage == 1 and not self.rules.step_size:
            self.cash = 0.0

    def rounded(self, quantity: float) -> float:
        """Round down to a multiple of the step; one missed by a billionth, or by the last bits of a float, is met."""
        step = self.rules.step_size
        if not step:
            return quantity
        steps = quantity / step
        met = abs(steps - round(steps)) <= max(1e-9, 4 * math.ulp(steps))
        return (round(steps) if met else math.floor(steps)) * step

    def too_small(self, notional: float, equity: float) -> bool:
        """Say whether an order is below the market's least or is dust."""
        return notional < self.rules.min_notional or notional <= 1e-9 * equity

    # Inside the kline.

    def passes(self, price: float, level: float, direction: int) -> bool:
        """Say whether a price has come to a level from above (-1) or below (+1)."""
        return level > 0 and (direction * (price - level) > 0 or (price == level and not self.strict))

    def protect(self, t: int, open_: float, high: float, low: float) -> bool:
        """Fill liquidation, stop or target; say whether one did. Else remember the best price."""
        position = self.position
        side, entry = position.side, position.entry
        worst, best = (low, high) if side > 0 else (high, low)
        stop, target, reason = NAN, NAN, STOP_LOSS
        if t >= position.guarded_from:
            stop = entry * (1 - side * position.stop_loss)
            trail = position.best * (1 - side * position.trailing_stop)
            if math.isnan(stop) or side * (trail - stop) > 0:
                stop, reason = trail, TRAILING_STOP
            target = entry * (1 + side * position.take_profit)
        if not self.passes(worst, stop, -side):
            stop = NAN
        level = self.liquidation_price(self.rules.maintenance_margin_rate) if self.perpetual else NAN
        if self.passes(worst, level, -side) and self.comes_first(level, stop, open_):
            stop, reason = level, LIQUIDATION
        hit_stop, hit_target = not math.isnan(stop), self.passes(best, target, side)
        stop_gap = hit_stop and side * (open_ - stop) <= 0
        target_gap = hit_target and side * (open_ - target) >= 0
        if hit_stop and hit_target:
            if stop_gap or target_gap:
                hit_stop = stop_gap
            else:
                self.ambiguous += 1
                policy = self.rules.intrabar_policy
                near = abs(open_ - stop) <= abs(open_ - target)
                hit_stop = policy == "STOP_FIRST" or (policy == "NEAREST_FIRST" and near)
        if hit_stop:
            beyond = side * (best - stop) < 0 if self.at_level else stop_gap
            price = open_ if beyond else stop
            if reason == LIQUIDATION:
                self.liquidate(t, price)
            else:
                self.market(t, -self.held, price, reason)
        elif hit_target:
            price = min(max(target, low), high) if self.at_level else open_ if target_gap else target
            fee = abs(self.held) * price * self.maker + self.rules.fixed_fee
            self.book(t, -self.held, price, fee, TAKE_PROFIT)
        else:
            position.best = max(position.best, high) if side > 0 else min(position.best, low)
            return False
        self.locked, self.resting = True, None
        return True

    def comes_first(self, level: float, stop: float, open_: float) -> bool:
        """Say whether liquidation comes before a stop that is touched, too (NaN: none is)."""
        side = self.position.side
        level_gap, stop_gap = side * (open_ - level) <= 0, side * (open_ - stop) <= 0
        if level_gap != stop_gap and not math.isnan(stop):
            return level_gap
        return not abs(open_ - level) >= abs(open_ - stop)

    def liquidation_price(self, margin_rate: float) -> float:
        """Return the price at which the margin left is a share of the notional; at 0 the bankruptcy price."""
        side, leverage = self.position.side, self.rules.max_leverage
        if self.rules.margin_mode == "ISOLATED":
            return self.position.entry * (1 - side / leverage) / (1 - side * margin_rate)
        return self.cash / (margin_rate * abs(self.held) - self.held)

    def liquidate(self, t: int, price: float) -> None:
        """Close all, losing the margin at most."""
        quantity, entry, bankrupt = abs(self.held), self.position.entry, self.liquidation_price(0.0)
        price = max(price, bankrupt) if self.held > 0 else min(price, bankrupt)
        left = self.cash + self.held * price
        if self.rules.margin_mode == "ISOLATED":
            left = quantity * entry / self.rules.max_leverage + self.held * (price - entry)
        fee = quantity * price * self.rules.liquidation_fee_bps / 1e4 + self.rules.fixed_fee
        self.book(t, -self.held, price, min(fee, max(left, 0.0)), LIQUIDATION)

    def fill_resting(self, t: int, open_: float, high: float, low: float) -> None:
        """Fill the resting entry where its price is met."""
        resting = self.resting
        side = 1 if resting.target > 0 else -1
        direction = -side if resting.is_limit else side  # which way the price goes to meet it
        in_time = t <= resting.decided_at + self.rules.order_klines
        if not in_time or not self.passes(low if direction < 0 else high, resting.price, direction):
            return
        pick = min if direction < 0 else max
        price = resting.price if resting.is_limit and self.at_level else pick(resting.price, open_)
        wanted = self.wanted(resting.target, price)
        self.resting = None  # filled, or skipped once and for all
        if wanted * side > 0 and abs(wanted) > abs(self.held):
            self.increase(t, wanted, price, resting.decided_at, t + 1, maker=resting.is_limit)


def simulate_reference(
    klines: KlineColumns, signals: Signals, execution: ExecutionModel, initial_cash: float, funding: Funding = None
) -> ReferenceOutcome:
    """Simulate klines, of which the closest two are one interval apart; ValueError where funding is missing."""
    none = [[]] * len(klines)
    due, later = (none, none) if funding is None else spread(klines.open_time_ms.tolist(), funding, execution)
    return Simulator(klines, signals, execution, initial_cash).run(due, later)


def spread(times: list[int], funding: FundingColumns, execution: ExecutionModel) -> tuple[Payments, Payments]:
    """Return the records of each kline: those due by its open time, and those inside it."""
    span = min(after - before for before, after in itertools.pairwise(times))
    end = times[-1] + span
    rows = zip(funding.time_ms.tolist(), funding.rate.tolist(), funding.mark_price.tolist(), strict=True)
    records = [row for row in rows if times[0] <= row[0] < end]
    if execution.missing_funding == "FAIL":
        step = round(execution.funding_interval_hours * 3_600_000)
        for stamp in range(-(-times[0] // step) * step, end, step):
            if not any(stamp <= time <= stamp + MINUTE_MS for time, _, _ in records):
                raise ValueError(f"no funding at {stamp}")
    due, later = [[] for _ in times], [[] for _ in times]
    t = 0
    for time, rate, mark in records:
        while time >= times[t] + span:
            t += 1
        (due if time <= times[t] else later)[t].append((rate, mark))
    return due, later
