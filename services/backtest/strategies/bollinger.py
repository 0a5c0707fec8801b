"""bollinger: buy below the lower band, leave at the middle."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from klinecast.strategy import Mode, State, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals
from services.backtest.strategies.averages import band_sides, window_deviations, window_means


class BollingerParams(StrategyParams):
    """Params of bollinger."""

    period: int = Field(default=20, ge=2, le=10_000, description="Klines of mean and deviation")
    width: float = Field(default=2.0, gt=0, le=100, description="Deviations from the middle to a band")


class Bollinger(Strategy[BollingerParams]):
    """Bollinger bands; the state is [old closes, three numbers of the mean, the side]."""

    name = "bollinger"
    version = "1"
    description = (
        "Long from below the lower band, or short from above the upper one, until the close crosses the middle."
    )
    Params = BollingerParams

    def warmup(self, params: BollingerParams) -> int:
        """Return the index of the first band."""
        return params.period - 1

    def memory(self, params: BollingerParams) -> State:
        """Return that the side and the running sum are handed on."""
        return State()

    def compute(
        self, params: BollingerParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> tuple[Signals, StrategyState]:
        """Decide the side where it changes."""
        old, carry, side = (
            (np.empty(0), np.zeros(3), 0.0) if state is None else (state[:-4], state[-4:-1].copy(), state[-1])
        )
        close = np.concatenate([old, klines.close])
        middle, deviation, target = np.empty(len(close)), np.empty(len(close)), np.empty(len(close))
        window_means(close, len(old), params.period, carry, middle)
        window_deviations(close, len(old), params.period, middle, deviation)
        lower, upper = middle - params.width * deviation, middle + params.width * deviation
        side = band_sides(close, lower, middle, upper, len(old), side, mode.down, target)
        return Signals(target[len(old) :]), np.concatenate([close[-params.period :], carry, [side]])
