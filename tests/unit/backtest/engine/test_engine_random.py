"""The engine and an independent simulator agree on tens of thousands of random runs over the whole execution model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from enum import Enum
from itertools import pairwise, repeat
from random import Random

import numpy as np
import pytest

from klinecast.types import (
    ExecutionModel,
    FillReason,
    FillTiming,
    FundingColumns,
    GapPolicy,
    IntrabarPolicy,
    KlineColumns,
    MarginMode,
    MarketType,
    MissingFunding,
    ProtectFrom,
    Rebalance,
    Reentry,
    Signals,
    TargetUnit,
    TouchRule,
)
from services.backtest.engine import Outcome, simulate
from services.backtest.strategies import compute_signals
from tests.reference.simulator import ReferenceOutcome, simulate_reference

HOUR_MS = 3_600_000
NAN = math.nan
CASH = 1000.0
SERIES, RAW_RUNS, CHUNKS = 10_000, 20_000, 20
TOLERANCE = 1e-9
MARKETS = (MarketType.SPOT, MarketType.LINEAR_PERPETUAL)
EVENTS = ("ruin", "ambiguity", "a target that came too late", "an open trade", "a short", "a reversal", "funding")
ENUMS = (
    FillTiming,
    ProtectFrom,
    IntrabarPolicy,
    GapPolicy,
    TouchRule,
    TargetUnit,
    Rebalance,
    Reentry,
    MissingFunding,
    MarginMode,
)


def chunks(total: int) -> list[range]:
    """Return the seeds of each test."""
    return [range(first, first + total // CHUNKS) for first in range(0, total, total // CHUNKS)]


def name_seeds(seeds: range) -> str:
    return f"seeds-{seeds.start}-{seeds.stop - 1}"


# Random inputs.


def random_klines(rng: Random) -> KlineColumns:
    """Return klines on a tick grid: trends, flat stretches, ties, gaps in price and in time, jumps."""
    count = rng.randrange(40, 91)
    tick = rng.choice([1 / 64, 0.125, 0.25, 0.01, 1.0])
    step = rng.choice([1, 1, 1, 2, 4]) * HOUR_MS
    time = rng.randrange(0, 24) * HOUR_MS + rng.choice([0, 0, HOUR_MS // 2])
    volatility = rng.choice([1, 3, 10, 30])
    last = rng.choice([60, 400, 800, 3000])
    drift = trend = rng.uniform(-0.4, 0.4) * volatility
    rows, flat = [], 0
    for _ in range(count):
        luck = rng.random()
        if luck < 0.04:
            flat = rng.randrange(1, 7)
        elif luck < 0.10:
            drift = rng.choice([trend, -trend, 0.0])
        open_ = last
        if flat:
            flat -= 1
            close = high = low = open_
        else:
            if luck > 0.97:
                open_ = round(open_ * rng.choice([0.5, 0.75, 0.9, 1.1, 1.25, 2.0]))
            elif luck > 0.6:
                open_ += round(rng.gauss(0, volatility))
            open_ = max(open_, 2)
            close = max(open_ + round(rng.gauss(drift, volatility)), 2)
            high = max(open_, close) + rng.choice([0, 1, round(abs(rng.gauss(0, volatility)))])
            low = max(min(open_, close) - rng.choice([0, 1, round(abs(rng.gauss(0, volatility)))]), 1)
        rows.append((open_, high, low, close))
        last = close
    times = []
    for _ in range(count):
        times.append(time)
        time += step * (rng.randrange(2, 12) if rng.random() < 0.03 else 1)
    times[-1] = times[-2] + step
    return KlineColumns(np.array(times), *(np.array(rows, float) * tick).T, np.ones(count))


def random_execution(rng: Random) -> ExecutionModel:
    """Return an execution model from the whole space."""
    pick = rng.choice
    perpetual = rng.random() < 0.55
    margin_rate = pick([0.0, 0.005, 0.005, 0.01, 0.02])
    return ExecutionModel(
        market_type="LINEAR_PERPETUAL" if perpetual else "SPOT",
        fill_timing=pick(list(FillTiming)),
        taker_fee_bps=pick([0.0, 0.0, 10.0, 7.5, 100.0, -2.0]),
        maker_fee_bps=pick([None, None, 0.0, 2.0, -1.0]),
        fixed_fee=pick([0.0, 0.0, 0.0, 0.5, 3.0]),
        slippage_bps=pick([0.0, 0.0, 5.0, 50.0]),
        target_unit=pick(list(TargetUnit)),
        max_leverage=pick([1.0, 2.0, 3.0, 5.0, 10.0, 25.0, 45.0]) if perpetual else pick([1.0, 1.0, 0.5]),
        allow_short=pick([None, True, False]),
        step_size=pick([0.0, 0.0, 0.001, 0.1, 1.0]),
        min_notional=pick([0.0, 0.0, 5.0, 100.0]),
        rebalance=pick(list(Rebalance)),
        rebalance_tolerance=pick([0.0, 0.01, 0.1, 0.3]),
        reentry=pick(list(Reentry)),
        stop_loss=pick([None, None, 0.0625, 0.125, 0.03, 0.01, 0.5, 1.5]),
        take_profit=pick([None, None, 0.0625, 0.125, 0.03, 0.01, 0.5, 1.5]),
        trailing_stop=pick([None, None, 0.0625, 0.125, 0.03, 0.01, 0.5, 1.5]),
        protect_from=pick(list(ProtectFrom)),
        intrabar_policy=pick(list(IntrabarPolicy)),
        gap_policy=pick(list(GapPolicy)),
        touch_rule=pick(list(TouchRule)),
        order_klines=pick([1, 1, 2, 3, 7]),
        missing_funding=pick(list(MissingFunding)),
        funding_interval_hours=pick([8.0, 4.0, 1.0]),
        maintenance_margin_rate=margin_rate,
        margin_mode=pick(list(MarginMode)),
        liquidation_fee_bps=pick([100.0, 0.0, 25.0]),
        close_at_end=pick([False, False, True]),
    )


def random_funding(rng: Random, klines: KlineColumns, execution: ExecutionModel) -> FundingColumns | None:
    """Return records for a perpetual: some a little late, with ZERO some left out."""
    if execution.market_type != MarketType.LINEAR_PERPETUAL:
        return None
    if execution.missing_funding is MissingFunding.ZERO and rng.random() < 0.2:
        return None
    step = round(execution.funding_interval_hours * HOUR_MS)
    first, last = int(klines.open_time_ms[0]), int(klines.open_time_ms[-1]) + 4 * HOUR_MS
    size = rng.choice([1e-4, 1e-3, 2e-2])
    rows = []
    for stamp in range(first // step * step - step, last + step, step):
        if execution.missing_funding is MissingFunding.ZERO and rng.random() < 0.3:
            continue
        mark = NAN if rng.random() < 0.5 else float(klines.close[rng.randrange(len(klines))])
        rows.append((stamp + rng.choice([0, 0, 0, 7, 2_000]), rng.uniform(-1, 1) * size, mark))
    times, rates, marks = zip(*rows, strict=True)
    return FundingColumns(np.array(times), np.array(rates), np.array(marks))


def random_params(rng: Random) -> dict[str, dict[str, object]]:
    """Return params of each built-in strategy that trade within few klines."""
    return {
        "dual_ma": {"fast": rng.randrange(1, 4), "slow": rng.randrange(4, 9), "average": rng.choice(["sma", "ema"])},
        "rsi": {"period": rng.randrange(2, 6), "lower": rng.choice([30, 40, 48]), "upper": rng.choice([52, 60, 70])},
        "macd": {"fast": rng.randrange(2, 4), "slow": rng.randrange(4, 8), "signal": rng.randrange(2, 5)},
        "bollinger": {"period": rng.randrange(3, 9), "width": rng.choice([0.5, 1.0, 1.5])},
    }


def unit_size(rng: Random, klines: KlineColumns, execution: ExecutionModel) -> float:
    """Return a target of sensible size: within the leverage limit, or around and beyond it where targets are cut."""
    leverage = execution.max_leverage
    if execution.target_unit is TargetUnit.EXPOSURE:
        return leverage * rng.choice([1.0, 1.0, 0.5, 0.9, 0.3])
    notional = CASH * leverage * rng.choice([0.2, 0.5, 0.9, 3.0])
    if execution.target_unit is TargetUnit.NOTIONAL:
        return notional
    return round(notional / float(klines.close[0]), rng.choice([0, 1, 4])) or 1.0


def raw_signals(rng: Random, klines: KlineColumns, execution: ExecutionModel) -> Signals:
    """Return decisions no strategy would make: any target, distance and resting price, kline after kline."""
    count = len(klines)
    unit = unit_size(rng, klines, execution)
    shares = [0.0, 0.25, 0.5, 1.0, 1.0] + ([-0.25, -0.5, -1.0] if execution.shorts_allowed else [])
    silence, steadiness = rng.choice([0.1, 0.5, 0.9]), rng.choice([0.0, 0.5, 0.9])
    targets, last = [], 0.0
    for _ in range(count):
        last = last if rng.random() < steadiness else rng.choice(shares) * unit
        targets.append(NAN if rng.random() < silence else last)

    def distances() -> np.ndarray | None:
        if rng.random() < 0.5:
            return None
        return np.array([rng.choice([NAN, 0.0625, 0.125, 0.01, 0.03, 0.4]) for _ in range(count)])

    limits, stops = np.full(count, NAN), np.full(count, NAN)
    often = rng.choice([0.0, 0.3, 0.9])
    for t in range(count):
        if rng.random() < often:
            near = float(rng.choice([klines.open, klines.high, klines.low, klines.close])[t])
            price = near * rng.choice([1.0, 1.0, 0.9375, 1.0625, 0.99, 1.01])
            (limits if rng.random() < 0.6 else stops)[t] = price
    resting = {"limit_price": limits, "stop_price": stops} if often else {}
    return Signals(np.array(targets), distances(), distances(), distances(), **resting)


# Comparison.


def close_to(one: float, other: float, scale: float = 0.0) -> bool:
    return one == other or abs(one - other) <= TOLERANCE * max(abs(one), abs(other), scale)


def fill_scales(fill: tuple) -> tuple[float, ...]:
    """Return what a fill's columns are compared by; a liquidation's fee may be all but nothing."""
    _, _, quantity, price, _, reason = fill
    return (0, 0, 0, 0, quantity * price * 1e-3 if reason == FillReason.LIQUIDATION else 0, 0)


def same_rows(ours: list[tuple], theirs: list[tuple], scales: Iterable[tuple[float, ...]]) -> bool:
    """Compare rows: whole numbers exactly, others to a billionth of themselves or of their scale."""
    return len(ours) == len(theirs) and all(
        one == other if isinstance(one, int) else close_to(one, other, scale)
        for row, twin, row_scales in zip(ours, theirs, scales, strict=False)
        for one, other, scale in zip(row, twin, row_scales, strict=True)
    )


def differences(outcome: Outcome, expected: ReferenceOutcome) -> list[str]:
    """Return the names of what differs."""
    money = max(CASH, *expected.equity)
    fills, trades = outcome.fills.tolist(), outcome.trades.tolist()
    equity = outcome.equity.tolist()
    checks = {
        "fills": fills == expected.fills or same_rows(fills, expected.fills, map(fill_scales, expected.fills)),
        "trades": trades == expected.trades
        or same_rows(trades, expected.trades, repeat((0, 0, 0, 0, 0, 0, money, money, money, 0))),
        "equity": equity == expected.equity
        or all(close_to(*pair, money) for pair in zip(equity, expected.equity, strict=True)),
        "cash": close_to(outcome.cash, expected.cash, money),
        "quantity": close_to(outcome.quantity, expected.quantity),
        "ambiguous_klines": outcome.ambiguous_klines == expected.ambiguous_klines,
        "ruined_at": outcome.ruined_at == expected.ruined_at,
        "pending_target": outcome.pending_target == expected.pending_target,
    }
    return [name for name, same in checks.items() if not same]


def describe(execution: ExecutionModel) -> dict[str, object]:
    """Return what is not as by default."""
    default = ExecutionModel().to_dict()
    return {name: value for name, value in execution.to_dict().items() if value != default[name]}


class Coverage(Counter):
    """How often each fill reason, enum value and rare event took part in a run that traded."""

    def add(self, signals: Signals, execution: ExecutionModel, outcome: ReferenceOutcome) -> None:
        if not outcome.fills:
            return
        self["runs"] += 1
        self.update(value for f in fields(execution) if isinstance(value := getattr(execution, f.name), Enum))
        self.update({FillReason(fill[-1]) for fill in outcome.fills})
        limits, stops = (set() if one is None else set(one) for one in (signals.limit_price, signals.stop_price))
        events = {
            "ruin": outcome.ruined_at is not None,
            "ambiguity": outcome.ambiguous_klines > 0,
            "a target that came too late": outcome.pending_target is not None,
            "an open trade": outcome.quantity != 0,
            "a short": any(trade[2] < 0 for trade in outcome.trades),
            "a reversal": any(one[1] == other[0] for one, other in pairwise(outcome.trades)),
            "a limit filled": any(fill[3] in limits for fill in outcome.fills),
            "a stop filled": any(fill[3] in stops for fill in outcome.fills),
            "funding": any(trade[8] for trade in outcome.trades),
        }
        self.update(name for name, happened in events.items() if happened)

    def require(self, events: Iterable[str], least: int) -> None:
        """Fail where something was too rare for agreement on it to mean anything."""
        kinds = (one for kind in ENUMS for one in kind)
        rare = {one: self[one] for one in (*MARKETS, *FillReason, *kinds, *events) if self[one] < least}
        assert not rare, f"occurred in fewer than {least} of {self['runs']} runs"


Case = tuple[str, KlineColumns, Signals, ExecutionModel, FundingColumns | None]


def strategy_case(seed: int) -> Iterable[Case]:
    """Yield one random series under four strategies, each with an execution model of its own."""
    rng = Random(seed)
    klines = random_klines(rng)
    for name, params in random_params(rng).items():
        execution = random_execution(rng)
        mode = "long_short" if execution.shorts_allowed and rng.random() < 0.7 else "long_only"
        signals = compute_signals(name, params, klines, mode)
        scaled = Signals(signals.target_exposure * unit_size(rng, klines, execution))
        yield f"seed {seed}, {name}", klines, scaled, execution, random_funding(rng, klines, execution)


def raw_case(seed: int) -> Iterable[Case]:
    rng = Random(f"raw {seed}")
    klines, execution = random_klines(rng), random_execution(rng)
    signals = raw_signals(rng, klines, execution)
    yield f"raw seed {seed}", klines, signals, execution, random_funding(rng, klines, execution)


def compare_all(seeds: range, make: Callable[[int], Iterable[Case]], events: Iterable[str], least: int) -> None:
    """Run both on every case; name the cases on which they differ, then see that the cases were worth it."""
    coverage, wrong = Coverage(), []
    for seed in seeds:
        for name, klines, signals, execution, funding in make(seed):
            outcome = simulate(klines, signals, execution, CASH, funding=funding)
            expected = simulate_reference(klines, signals, execution, CASH, funding)
            if names := differences(outcome, expected):
                wrong.append(f"{name}: {', '.join(names)} differ with {describe(execution)}")
            coverage.add(signals, execution, expected)
    assert not wrong, "\n".join([f"{len(wrong)} of {coverage['runs']} runs", *wrong[:10]])
    coverage.require(events, least)


@pytest.mark.parametrize("seeds", chunks(SERIES), ids=name_seeds)
def test_strategies_trade_alike_on_random_series(seeds: range) -> None:
    compare_all(seeds, strategy_case, EVENTS, least=100)


@pytest.mark.parametrize("seeds", chunks(RAW_RUNS), ids=name_seeds)
def test_random_decisions_trade_alike(seeds: range) -> None:
    compare_all(seeds, raw_case, (*EVENTS, "a limit filled", "a stop filled"), least=50)
