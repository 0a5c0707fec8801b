"""What a strategy is. Subclass Strategy, name it in the entry-point group "klinecast.strategies", and it is found.

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
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from klinecast.indicators import Indicator
from klinecast.types import KlineColumns, Signals

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


class Strategy(ABC, Generic[ParamsT]):
    """A function of klines giving signals. Instances hold no data: the same klines give the same signals."""

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

    def memory(self, params: ParamsT) -> Memory:
        """Return how the strategy remembers; by default it does not."""
        return None

    def indicators(self, params: ParamsT) -> Sequence[Indicator]:
        """Return what compute finds in klines.indicators: computed by the data service, or stored there."""
        return ()

    @abstractmethod
    def compute(
        self, params: ParamsT, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals | tuple[Signals, StrategyState]:
        """Decide at the close of each kline, looking at that kline and earlier ones only; NaN = no decision.

        With memory State() return (signals, state); klines are then those after the ones `state` was handed on from.
        """
