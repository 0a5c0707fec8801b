"""The strategies as the service shows, checks and hashes them; the registry itself stays pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from klinecast.backtest_config import BacktestConfig, ParamValue
from klinecast.indicators import Indicator
from klinecast.strategy import EventStrategy, Memory, Mode, Strategy, StrategyState
from klinecast.types import KlineColumns, MarketType, Signals
from services.backtest.code_hash import Code
from services.backtest.engine import Context
from services.backtest.reuse import continue_key, reuse_key
from services.backtest.strategies import RefusedStrategy, StrategyRegistry, decider, run_strategy, validate_params
from services.backtest.strategies.registry import BUILT_IN

_Key = Callable[[BacktestConfig, Mapping[str, ParamValue], str, str], bytes]


@dataclass(frozen=True, slots=True)
class StrategyInfo:
    """A strategy as it is listed."""

    name: str
    version: str
    description: str
    params_schema: Mapping[str, object]
    """JSON schema."""
    warmup: int
    """Index of the first valid decision with default params; 0 where a param has no default."""


class Catalogue:
    """What the service and its workers ask about strategies."""

    def __init__(self, registry: StrategyRegistry) -> None:
        self._registry = registry
        self.broken = registry.broken
        self._refused: dict[str, str] = {}
        self._codes = {one.name: Code(type(one)) for one in registry.all()}

    def names(self) -> Sequence[str]:
        """Return the names of all strategies, sorted."""
        return self._registry.names()

    def refuse(self, name: str, why: str) -> None:
        """Let a strategy be used no more."""
        self._refused[name] = why

    def check(self, name: str, params: Mapping[str, ParamValue]) -> None:
        """Raise UnknownStrategy, RefusedStrategy or InvalidParams."""
        if name in self._refused:
            raise RefusedStrategy(name, self._refused[name])
        validate_params(self._registry.get(name), params)

    def is_event_driven(self, name: str) -> bool:
        """Tell whether a strategy decides kline after kline."""
        return isinstance(self._registry.get(name), EventStrategy)

    def memory(self, name: str, params: Mapping[str, ParamValue]) -> Memory:
        """Return how a strategy remembers; None: only by seeing all klines again, or what is made of them elsewhere."""
        strategy = self._registry.get(name)
        if not isinstance(strategy, Strategy):
            return None
        checked = validate_params(strategy, params)
        return None if strategy.indicators(checked) else strategy.memory(checked)

    def compute_signals(
        self,
        name: str,
        params: Mapping[str, ParamValue],
        klines: KlineColumns,
        mode: str,
        state: StrategyState | None = None,
    ) -> tuple[Signals, StrategyState | None]:
        """Compute the signals of a strategy and the state it hands on; whatever it raises comes through.

        A plug-in works on a copy: what it does to the klines is no business of the simulation.
        """
        strategy = self._registry.get(name)
        if not isinstance(strategy, Strategy):
            raise TypeError(f"{name} decides kline after kline")
        given = klines if type(strategy) in BUILT_IN else klines.copy()
        return run_strategy(strategy, validate_params(strategy, params), given, Mode(mode), state)

    def decider(self, name: str, params: Mapping[str, ParamValue], mode: str) -> Callable[[Context], None]:
        """Return what an event-driven strategy is asked by at each kline."""
        strategy = self._registry.get(name)
        if not isinstance(strategy, EventStrategy):
            raise TypeError(f"{name} is not event-driven")
        return decider(strategy, validate_params(strategy, params), Mode(mode))

    def indicators(self, name: str, params: Mapping[str, ParamValue]) -> Sequence[Indicator]:
        """Return what a strategy wants to see besides the klines."""
        strategy = self._registry.get(name)
        return strategy.indicators(validate_params(strategy, params))

    def reuse_key(self, config: BacktestConfig) -> bytes | None:
        """Return what equal requests to the same code have in common; None where that cannot be told."""
        return self._key_of(config, reuse_key)

    def continue_key(self, config: BacktestConfig) -> bytes | None:
        """Return what requests that differ in their end only have in common; None where that cannot be told."""
        return self._key_of(config, continue_key)

    def version(self, name: str) -> str:
        """Return the version of a strategy."""
        return self._registry.get(name).version

    def code_hash(self, name: str) -> str:
        """Return the hash of the code of a strategy as it is loaded, with all it imports, and of the engine."""
        return self._codes[name].loaded

    def _key_of(self, config: BacktestConfig, key: _Key) -> bytes | None:
        code = self._codes[config.strategy].now()
        if code is None:
            return None
        params = validate_params(self._registry.get(config.strategy), config.params).model_dump(mode="json")
        return key(config, params, config.mode or default_mode(config.market_type), code)

    def list(self) -> list[StrategyInfo]:
        """Return every strategy that may be used, sorted by name."""
        return [
            StrategyInfo(one.name, one.version, one.description, one.Params.model_json_schema(), self._warmup(one.name))
            for one in self._registry.all()
            if one.name not in self._refused
        ]

    def _warmup(self, name: str) -> int:
        strategy = self._registry.get(name)
        if any(field.is_required() for field in strategy.Params.model_fields.values()):
            return 0
        return strategy.warmup(strategy.Params())


def default_mode(market_type: MarketType) -> str:
    """Return the mode of a config that names none: long_only on spot, long_short on perpetuals."""
    return "long_only" if market_type is MarketType.SPOT else "long_short"
