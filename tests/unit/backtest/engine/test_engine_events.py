"""Event-driven runs: decisions made kline after kline give what the same decisions as columns give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backtest.engine import (
    Context,
    DecisionFailed,
    EngineError,
    ExecutionModel,
    KlineColumns,
    Signals,
    simulate,
    simulate_events,
)

NAN = float("nan")


def walk(seed: int, count: int = 80) -> KlineColumns:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.03, count)))
    opening = np.append(100.0, close[:-1]) * (1 + random.normal(0, 0.01, count))
    high, low = np.maximum(opening, close) * 1.01, np.minimum(opening, close) * 0.99
    return KlineColumns(3_600_000 * np.arange(count), opening, high, low, close, np.ones(count))


def decisions(seed: int, klines: KlineColumns, *, shorts: bool) -> Signals:
    random = np.random.default_rng(seed + 1)
    count = len(klines)
    target = np.round(random.uniform(-1 if shorts else 0, 1, count), 1)
    target[random.random(count) < 0.6] = NAN
    distance = [np.where(random.random(count) < 0.5, random.uniform(0.01, 0.08, count), NAN) for _ in range(3)]
    resting = np.where(random.random(count) < 0.2, klines.close * 0.99, NAN)
    return Signals(target, *distance, limit_price=resting)


def replay(signals: Signals):
    def decide(context: Context) -> None:
        at = context.index
        if np.isnan(signals.target_exposure[at]):
            return
        names = ("stop_loss", "take_profit", "trailing_stop", "limit_price")
        given = {name: float(getattr(signals, name)[at]) for name in names}
        context.order(
            signals.target_exposure[at], **{name: value for name, value in given.items() if not np.isnan(value)}
        )

    return decide


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    timing=st.sampled_from(["NEXT_OPEN", "THIS_CLOSE"]),
    rebalance=st.sampled_from(["ON_CHANGE", "EVERY_KLINE"]),
    policy=st.sampled_from(["STOP_FIRST", "TARGET_FIRST", "NEAREST_FIRST"]),
    end=st.booleans(),
)
def test_the_same_decisions_give_the_same_bits(seed, timing, rebalance, policy, end):
    klines = walk(seed)
    signals = decisions(seed, klines, shorts=True)
    model = ExecutionModel(
        fill_timing=timing, rebalance=rebalance, intrabar_policy=policy, close_at_end=end, allow_short=True
    )
    whole = simulate(klines, signals, model)
    outcome, decided = simulate_events(klines, replay(signals), model)
    given_here = ~np.isnan(signals.target_exposure)
    assert outcome.equity.tobytes() == whole.equity.tobytes()
    assert outcome.fills.tobytes() == whole.fills.tobytes()
    assert outcome.trades.tobytes() == whole.trades.tobytes()
    assert outcome.bounds == whole.bounds
    assert outcome.pending_target == whole.pending_target
    assert outcome.ambiguous_klines == whole.ambiguous_klines
    assert np.array_equal(decided.target_exposure, signals.target_exposure, equal_nan=True)
    assert np.array_equal(decided.stop_loss[given_here], signals.stop_loss[given_here], equal_nan=True)


@pytest.mark.parametrize("timing", ["NEXT_OPEN", "THIS_CLOSE"])
def test_the_context_shows_the_account_as_the_order_finds_it(timing):
    klines = walk(3)
    seen: list[tuple[int, float, float, float]] = []

    def decide(context: Context) -> None:
        assert len(context.closes) == context.index + 1
        assert context.open_time_ms == context.open_times_ms[-1] == klines.open_time_ms[context.index]
        assert context.equity == pytest.approx(context.cash + context.quantity * context.closes[-1])
        assert (context.entry_price is None) == (context.quantity == 0)
        seen.append((context.index, context.quantity, context.cash, context.equity))
        if context.index % 10 == 0:
            context.order(1.0 if context.quantity == 0 else 0.0)

    outcome, _ = simulate_events(klines, decide, ExecutionModel(fill_timing=timing))
    assert [row[0] for row in seen] == list(range(80))
    held = np.zeros(80)
    for fill in outcome.fills:
        after = fill["kline_index"] + (timing == "THIS_CLOSE")
        held[after:] += fill["side"] * fill["quantity"]
    assert [row[1] for row in seen] == pytest.approx(list(held))
    assert len(outcome.fills) == 8


def test_memory_is_kept_and_is_the_runs_own():
    klines = walk(4)

    def decide(context: Context) -> None:
        context.memory["seen"] = context.memory.get("seen", 0) + 1
        assert context.memory["seen"] == context.index + 1

    simulate_events(klines, decide, ExecutionModel())
    simulate_events(klines, decide, ExecutionModel())


def test_warm_up_klines_are_seen_and_not_traded():
    klines = walk(5)
    indices = []

    def decide(context: Context) -> None:
        indices.append(context.index)
        context.order(1.0 if context.index < 0 else 0.0)

    outcome, decided = simulate_events(klines.slice(10), decide, ExecutionModel(), seen=klines)
    assert indices == list(range(-10, 70))
    assert len(outcome.fills) == 0
    assert len(decided.target_exposure) == 70


def test_the_models_distances_stand_where_an_order_names_none():
    klines = walk(6)
    _, decided = simulate_events(
        klines,
        lambda c: c.order(1.0, take_profit=0.5) if c.index == 2 else None,
        ExecutionModel(stop_loss=0.1),
    )
    assert (decided.stop_loss[2], decided.take_profit[2]) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"target": NAN}, "INVALID_EXPOSURE"),
        ({"target": float("inf")}, "INVALID_EXPOSURE"),
        ({"target": 1.5}, "INVALID_EXPOSURE"),
        ({"target": -0.5}, "INVALID_EXPOSURE"),
        ({"target": 1.0, "stop_loss": 0.0}, "INVALID_SIGNALS"),
        ({"target": 1.0, "take_profit": NAN}, "INVALID_SIGNALS"),
        ({"target": 1.0, "limit_price": -1.0}, "INVALID_SIGNALS"),
        ({"target": 1.0, "limit_price": 9.0, "stop_price": 9.0}, "INVALID_SIGNALS"),
    ],
)
def test_an_impossible_order_names_its_kline(order, reason):
    def decide(context: Context) -> None:
        if context.index == 7:
            context.order(**order)

    with pytest.raises(EngineError) as caught:
        simulate_events(walk(7), decide, ExecutionModel())
    assert (caught.value.reason, caught.value.kline_index) == (reason, 7)


def test_what_a_decision_raises_comes_with_its_kline():
    def decide(context: Context) -> None:
        if context.index == 9:
            raise KeyError("mine")

    with pytest.raises(DecisionFailed) as caught:
        simulate_events(walk(8), decide, ExecutionModel())
    assert caught.value.kline_index == 9
    assert isinstance(caught.value.__cause__, KeyError)
