"""Strategies: functions of klines giving signals. Pure: no clock, no randomness, no I/O but loading plug-ins once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import BaseModel

from klinecast.strategy import Mode, Strategy, StrategyState
from klinecast.types import KlineColumns, Signals
from services.backtest.strategies.errors import InvalidParams, UnknownStrategy
from services.backtest.strategies.params import validate_params
from services.backtest.strategies.registry import StrategyRegistry

__all__ = [
    "InvalidParams",
    "Mode",
    "StrategyRegistry",
    "UnknownStrategy",
    "compute_signals",
    "default_registry",
    "run_strategy",
    "validate_params",
]


@cache
def default_registry() -> StrategyRegistry:
    """Return the registry of this process, loaded at the first call."""
    return StrategyRegistry()


def compute_signals(name: str, params: Mapping[str, object], klines: KlineColumns, mode: str = "long_only") -> Signals:
    """Return the signals of a registered strategy; UnknownStrategy or InvalidParams where there are none."""
    strategy = default_registry().get(name)
    return run_strategy(strategy, validate_params(strategy, params), klines, Mode(mode))[0]


def run_strategy(
    strategy: Strategy[BaseModel],
    params: BaseModel,
    klines: KlineColumns,
    mode: Mode,
    state: StrategyState | None = None,
) -> tuple[Signals, StrategyState | None]:
    """Return the signals of a strategy and the state it hands on, None where it has none."""
    result = strategy.compute(params, klines, mode, state)
    return result if isinstance(result, tuple) else (result, None)
