"""The strategies as the service shows, checks and hashes them; the registry itself stays pure."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version

from klinecast.backtest_config import ParamValue
from klinecast.indicators import Indicator
from klinecast.strategy import Mode
from klinecast.types import KlineColumns, Signals
from services.backtest.engine import ENGINE_VERSION
from services.backtest.strategies import StrategyRegistry, run_strategy, validate_params


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

    def check(self, name: str, params: Mapping[str, ParamValue]) -> None:
        """Raise UnknownStrategy or InvalidParams."""
        validate_params(self._registry.get(name), params)

    def compute_signals(self, name: str, params: Mapping[str, ParamValue], klines: KlineColumns, mode: str) -> Signals:
        """Compute the signals of a strategy; whatever it raises comes through."""
        strategy = self._registry.get(name)
        signals, _ = run_strategy(strategy, validate_params(strategy, params), klines, Mode(mode))
        return signals

    def indicators(self, name: str, params: Mapping[str, ParamValue]) -> Sequence[Indicator]:
        """Return what a strategy wants to see besides the klines."""
        strategy = self._registry.get(name)
        return strategy.indicators(validate_params(strategy, params))

    def version(self, name: str) -> str:
        """Return the version of a strategy."""
        return self._registry.get(name).version

    @functools.cache  # noqa: B019 - one catalogue per process
    def code_hash(self, name: str) -> str:
        """Return the SHA-256 of the strategy's module, its distribution's version and the engine's."""
        kind = type(self._registry.get(name))
        digest = hashlib.sha256(inspect.getsource(inspect.getmodule(kind) or kind).encode())
        for distribution in packages_distributions().get(kind.__module__.split(".")[0], []):
            digest.update(f"{distribution}=={version(distribution)}".encode())
        digest.update(ENGINE_VERSION.encode())
        return digest.hexdigest()

    def list(self) -> list[StrategyInfo]:
        """Return every strategy, sorted by name."""
        return [
            StrategyInfo(one.name, one.version, one.description, one.Params.model_json_schema(), self._warmup(one.name))
            for one in self._registry.all()
        ]

    def _warmup(self, name: str) -> int:
        strategy = self._registry.get(name)
        if any(field.is_required() for field in strategy.Params.model_fields.values()):
            return 0
        return strategy.warmup(strategy.Params())
