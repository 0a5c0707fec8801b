"""Every strategy that can be backtested: the built-in ones and those of installed distributions, loaded once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from pydantic import BaseModel

from klinecast.strategy import ENTRY_POINT_GROUP, AnyStrategy, EventStrategy, Strategy
from services.backtest.strategies.bollinger import Bollinger
from services.backtest.strategies.buy_and_hold import BuyAndHold
from services.backtest.strategies.donchian_breakout import DonchianBreakout
from services.backtest.strategies.dual_ma import DualMa
from services.backtest.strategies.errors import UnknownStrategy
from services.backtest.strategies.macd import Macd
from services.backtest.strategies.rsi import Rsi

BUILT_IN: tuple[type[AnyStrategy[BaseModel]], ...] = (  # type: ignore[assignment]
    Bollinger,
    BuyAndHold,
    DonchianBreakout,
    DualMa,
    Macd,
    Rsi,
)
_REQUIRED = ("name", "version", "description", "Params")


class StrategyRegistry:
    """Strategies by name. A plug-in that cannot be loaded is left out and named in `broken`."""

    def __init__(self, plug_ins: Iterable[EntryPoint] | None = None) -> None:
        self._strategies: dict[str, AnyStrategy[BaseModel]] = {kind.name: kind() for kind in BUILT_IN}
        self._broken: dict[str, str] = {}
        for point in entry_points(group=ENTRY_POINT_GROUP) if plug_ins is None else plug_ins:
            self._load(point)

    @property
    def broken(self) -> dict[str, str]:
        """Why each plug-in that is left out is, by the name of its entry point."""
        return dict(self._broken)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._strategies)

    def all(self) -> list[AnyStrategy[BaseModel]]:
        """Return all strategies, sorted by name."""
        return [self._strategies[name] for name in self.names()]

    def get(self, name: str) -> AnyStrategy[BaseModel]:
        """Return a strategy; UnknownStrategy carries the nearest names."""
        found = self._strategies.get(name)
        if found is None:
            near = difflib.get_close_matches(name.lower(), self.names(), n=3, cutoff=0.5)
            raise UnknownStrategy(name, near, self.names())
        return found

    def _load(self, point: EntryPoint) -> None:
        try:
            strategy = _checked(point.load())
            if strategy.name in self._strategies:
                raise ValueError(f"the name {strategy.name} is taken")
            self._strategies[strategy.name] = strategy
        except Exception as error:  # a plug-in may raise anything; the others still have to start
            self._broken[point.name] = f"{type(error).__name__}: {error}"


def _checked(kind: object) -> AnyStrategy[BaseModel]:
    if not (isinstance(kind, type) and issubclass(kind, Strategy | EventStrategy)):
        raise TypeError(f"{kind!r} is no subclass of Strategy or EventStrategy of klinecast.strategy")
    missing = [name for name in _REQUIRED if not hasattr(kind, name)]
    if missing:
        raise TypeError(f"{kind.__name__} lacks {', '.join(missing)}")
    strategy: AnyStrategy[BaseModel] = kind()
    return strategy
