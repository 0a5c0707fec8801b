"""No look-ahead: cutting off later klines changes no decision, and a strategy for which it does is found."""

from __future__ import annotations

import numpy as np
import pytest

from klinecast.strategy import EventStrategy, Strategy, StrategyParams
from klinecast.types import Signals
from services.backtest.strategies.lookahead import SAMPLE_KLINES, Finding, find_lookahead, sample_klines
from services.backtest.strategies.registry import BUILT_IN


class NoParams(StrategyParams):
    """None."""


class Columns(Strategy[NoParams]):
    """Decides as the test says."""

    name, version, description, Params = "columns", "1", "", NoParams

    def __init__(self, decide) -> None:
        self._decide = decide

    def warmup(self, params):
        return 0

    def compute(self, params, klines, mode, state=None):
        return self._decide(klines)


class Events(EventStrategy[NoParams]):
    """Decides as the test says, kline after kline."""

    name, version, description, Params = "events", "1", "", NoParams

    def __init__(self, decide) -> None:
        self._decide = decide

    def warmup(self, params):
        return 0

    def on_kline(self, params, mode, context):
        self._decide(context)


def rises(close: np.ndarray) -> np.ndarray:
    return np.where(np.diff(close, prepend=close[0]) > 0, 1.0, 0.0)


def peek_by_one(klines):
    target = np.full(len(klines), np.nan)
    target[:-1] = rises(klines.close)[1:]
    return Signals(target)


def peek_late(klines):
    target = rises(klines.close)
    target[200:-1] = rises(klines.close)[201:]
    return Signals(target)


def scaled_by_the_whole(klines):
    return Signals(np.where(klines.close > klines.close.mean(), 1.0, 0.0))


def stops_from_the_future(klines):
    return Signals(np.ones(len(klines)), stop_loss=np.full(len(klines), klines.close.std() / klines.close.mean()))


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_no_built_in_strategy_looks_ahead(kind):
    assert find_lookahead(kind()) == Finding()


@pytest.mark.parametrize(
    ("decide", "index"),
    [
        (peek_by_one, range(3)),
        (peek_late, range(200, 204)),
        (scaled_by_the_whole, range(4)),
        (stops_from_the_future, [0]),
    ],
)
def test_a_strategy_that_looks_ahead_is_found_with_its_kline(decide, index):
    assert find_lookahead(Columns(decide)).kline_index in index


def test_an_event_strategy_that_reaches_behind_its_context_is_found():
    def peek(context) -> None:
        everything = context.closes.base
        at = context.index
        if at + 1 < len(everything):
            context.order(1.0 if everything[at + 1] > everything[at] else 0.0)

    def honest(context) -> None:
        if len(context.closes) > 1:
            context.order(1.0 if context.closes[-1] > context.closes[-2] else 0.0)

    assert find_lookahead(Events(peek)).kline_index == 0
    assert find_lookahead(Events(honest)) == Finding()


def test_honest_columns_pass():
    assert find_lookahead(Columns(lambda klines: Signals(rises(klines.close)))) == Finding()


def test_a_strategy_that_fails_proves_nothing():
    def fail(klines):
        raise RuntimeError("not today")

    def fail_when_short(klines):
        if len(klines) < 50:
            raise ValueError("too few")
        return Signals(rises(klines.close))

    assert find_lookahead(Columns(fail)).unproven == "RuntimeError: not today"
    assert "too few" in str(find_lookahead(Columns(fail_when_short)).unproven)
    assert find_lookahead(Columns(lambda klines: Signals(np.ones(3)))).kline_index is None
    assert find_lookahead(Columns(lambda klines: "nothing")).unproven is not None


def test_the_sample_is_at_most_256_klines_and_is_the_same_each_time():
    strategy = BUILT_IN[0]()
    first, second = (sample_klines(strategy, strategy.Params()) for _ in range(2))
    assert len(first) == SAMPLE_KLINES == 256
    assert first.close.tobytes() == second.close.tobytes()
    assert np.all(np.diff(first.open_time_ms) > 0)
    assert len(set(np.diff(first.open_time_ms))) == 2
