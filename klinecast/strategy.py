"""What a strategy is. Subclass Strategy, name it in the entry-point group "klinecast.strategies", and it is found.

A Strategy turns columns of klines into columns of decisions, which is fast; an EventStrategy is asked kline after kline
and sees its account, for logic that columns cannot say.

class Params(StrategyParams):
    lookback: int = Field(20, ge=1, le=1000, description="Klines to look back")

class Breakout(Strategy[Params]):
    name = "breakout"
    version = "1"
    description = "Long while the close is above the close `lookback` klines ago."
    Params = Params

    def warmup(self, params: Params) -> int:
        return params.lookback

    def memory(self, params: Params) -> Memory:
        return Window(params.lookback + 1)

    def compute(self, params, klines, mode, state=None):
        target = np.full(len(klines), np.nan)
        n = params.lookback
        target[n:] = np.where(klines.close[n:] > klines.close[:-n], 1.0, mode.down)
        return Signals(target)

What a strategy wants to see besides the klines it names in `indicators(params)`; it stands in klines.indicators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from klinecast.indicators import Indicator
from klinecast.types import FloatColumn, KlineColumns, Signals, TimeColumn

ENTRY_POINT_GROUP = "klinecast.strategies"

StrategyState = NDArray[np.float64]
"""What a strategy hands on between two parts of a run: one array of numbers, meaning what the strategy says."""


class Mode(StrEnum):
    """Whether "down" means flat or short."""

    LONG_ONLY = "long_only"
    LONG_SHORT = "long_short"

    @property
    def down(self) -> float:
        """Target exposure of a falling market: 0 or -1."""
        return -1.0 if self is Mode.LONG_SHORT else 0.0


class StrategyParams(BaseModel):
    """Base of every strategy's params: bounds and defaults on the fields, unknown names refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Window:
    """A decision depends on the last `klines` klines only, bit for bit."""

    klines: int
    """How many, 1 or more, the deciding one included."""


@dataclass(frozen=True, slots=True)
class State:
    """compute returns (signals, state), and going on from that state gives the same bits as one run."""


Memory = Window | State | None
"""How a strategy remembers; None = it has to see all klines again."""

ParamsT = TypeVar("ParamsT", bound=BaseModel)


class AnyStrategy(ABC, Generic[ParamsT]):
    """What both kinds have in common. Instances hold no data: the same klines give the same decisions."""

    name: ClassVar[str]
    """What it is called by, lower_case."""
    version: ClassVar[str]
    """Moved by every change that may change a decision."""
    description: ClassVar[str]
    """What it does, in one or two sentences."""
    Params: type[ParamsT]
    """Its params; subclass StrategyParams."""

    @abstractmethod
    def warmup(self, params: ParamsT) -> int:
        """Return the index of the first kline that can have a decision."""

    def indicators(self, params: ParamsT) -> Sequence[Indicator]:
        """Return what the strategy finds in klines.indicators: computed by the data service, or stored there."""
        return ()


class Strategy(AnyStrategy[ParamsT]):
    """A function of klines giving signals."""

    def memory(self, params: ParamsT) -> Memory:
        """Return how the strategy remembers; by default it does not."""
        return None

    @abstractmethod
    def compute(
        self, params: ParamsT, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals | tuple[Signals, StrategyState]:
        """Decide at the close of each kline, looking at that kline and earlier ones only; NaN = no decision.

        With memory State() return (signals, state); klines are then those after the ones `state` was handed on from.
        """


class KlineContext(Protocol):
    """What an EventStrategy sees at the close of a kline, and where it leaves its order.

    Prices are quote units, quantities base units. Columns end with this kline: what comes later cannot be seen.
    """

    @property
    def index(self) -> int:
        """Which kline this is, from 0; warm-up klines before start count from below 0."""

    @property
    def open_time_ms(self) -> int:
        """Start of this kline, epoch milliseconds UTC."""

    @property
    def open_times_ms(self) -> TimeColumn:
        """Start of each kline so far."""

    @property
    def opens(self) -> FloatColumn:
        """First price of each kline so far; opens[-1] is this kline's."""

    @property
    def highs(self) -> FloatColumn:
        """Highest price of each kline so far."""

    @property
    def lows(self) -> FloatColumn:
        """Lowest price of each kline so far."""

    @property
    def closes(self) -> FloatColumn:
        """Last price of each kline so far."""

    @property
    def volumes(self) -> FloatColumn:
        """Traded base units of each kline so far."""

    def indicator(self, name: str) -> FloatColumn:
        """Return a column of `indicators(params)` so far; KeyError where there is none of this name."""

    @property
    def quantity(self) -> float:
        """Position held now, signed; 0 when flat."""

    @property
    def entry_price(self) -> float | None:
        """Average cost of the position; None when flat."""

    @property
    def cash(self) -> float:
        """Free money now."""

    @property
    def equity(self) -> float:
        """cash + quantity * close."""

    @property
    def memory(self) -> dict[str, Any]:
        """The strategy's own notes, kept from kline to kline of this backtest; empty at first."""

    def order(
        self,
        target: float,
        *,
        stop_loss: float | None = None,
        take_profit: float | None = None,
        trailing_stop: float | None = None,
        limit_price: float | None = None,
        stop_price: float | None = None,
    ) -> None:
        """Decide the wanted position, in the execution model's target_unit (by default position value / equity).

        It is filled as a decision of any strategy is (docs/execution.md). stop_loss, take_profit, trailing_stop:
        fractions above 0; limit_price or stop_price: where the entry rests. The last order at a kline counts; a kline
        without one is no decision.
        """

    def close(self) -> None:
        """Decide to hold nothing."""


class EventStrategy(AnyStrategy[ParamsT]):
    """Decides kline after kline, seeing its own account."""

    @abstractmethod
    def on_kline(self, params: ParamsT, mode: Mode, context: KlineContext) -> None:
        """Look at the context, and order or not; called once at the close of each kline, oldest first."""
