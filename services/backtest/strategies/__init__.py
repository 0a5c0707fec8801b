"""Strategies: functions of klines giving signals. Pure: no clock, no randomness, no I/O but loading plug-ins once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from pydantic import BaseModel

from klinecast.strategy import AnyStrategy, EventStrategy, Mode, Strategy, StrategyState
from klinecast.types import ExecutionModel, KlineColumns, Signals
from services.backtest.engine import Context, EngineError, simulate_events
from services.backtest.strategies.errors import InvalidParams, RefusedStrategy, UnknownStrategy
from services.backtest.strategies.params import validate_params
from services.backtest.strategies.registry import StrategyRegistry

__all__ = [
    "InvalidParams",
    "Mode",
    "RefusedStrategy",
    "StrategyRegistry",
    "UnknownStrategy",
    "compute_signals",
    "decider",
    "decisions_of",
    "default_registry",
    "run_strategy",
    "validate_params",
]


@cache
def default_registry() -> StrategyRegistry:
    """Return the registry of this process, loaded at the first call."""
    return StrategyRegistry()


def compute_signals(name: str, params: Mapping[str, object], klines: KlineColumns, mode: str = "long_only") -> Signals:
    """Return the signals of a registered strategy; UnknownStrategy or InvalidParams where there are none.

    Of an event-driven strategy they are what it decides under the default execution model, shorts allowed.
    """
    strategy = default_registry().get(name)
    return decisions_of(strategy, validate_params(strategy, params), klines, Mode(mode))


def decisions_of(strategy: AnyStrategy[BaseModel], params: BaseModel, klines: KlineColumns, mode: Mode) -> Signals:
    """Return what a strategy of either kind decides, as columns."""
    if isinstance(strategy, EventStrategy):
        return simulate_events(klines, decider(strategy, params, mode), ExecutionModel(allow_short=True))[1]
    if isinstance(strategy, Strategy):
        return run_strategy(strategy, params, klines, mode)[0]
    raise TypeError(f"{strategy.name} is neither a Strategy nor an EventStrategy")


def run_strategy(
    strategy: Strategy[BaseModel],
    params: BaseModel,
    klines: KlineColumns,
    mode: Mode,
    state: StrategyState | None = None,
) -> tuple[Signals, StrategyState | None]:
    """Return the signals of a strategy and the state it hands on, None where it has none."""
    result: object = strategy.compute(params, klines, mode, state)
    signals, handed_on = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(signals, Signals):
        raise EngineError("INVALID_SIGNALS", None, f"compute returned {type(result).__name__} instead of Signals")
    return signals, handed_on


def decider(strategy: EventStrategy[BaseModel], params: BaseModel, mode: Mode) -> Callable[[Context], None]:
    """Return what an event-driven run asks at each kline."""
    return lambda context: strategy.on_kline(params, mode, context)
