"""rsi: buy where Wilder's relative strength index is low, leave where it is high."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from klinecast.strategy import Mode, State, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals
from services.backtest.strategies.averages import relative_strength


class RsiParams(StrategyParams):
    """Params of rsi."""

    period: int = Field(default=14, ge=2, le=10_000, description="Klines of Wilder's smoothing")
    lower: float = Field(default=30.0, ge=0, le=100, description="Buy below, 0..100")
    upper: float = Field(default=70.0, ge=0, le=100, description="Leave above, 0..100, more than lower")

    @model_validator(mode="after")
    def _require_order(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower: {self.lower} is not below upper, {self.upper}")
        return self


class Rsi(Strategy[RsiParams]):
    """Relative strength index; the state is [closes seen, last close, gain, loss]."""

    name = "rsi"
    version = "1"
    description = "Long when the RSI falls below lower; when it rises above upper flat, or short."
    Params = RsiParams

    def warmup(self, params: RsiParams) -> int:
        """Return the index of the first RSI."""
        return params.period

    def memory(self, params: RsiParams) -> State:
        """Return that the smoothed gains and losses are handed on."""
        return State()

    def compute(
        self, params: RsiParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> tuple[Signals, StrategyState]:
        """Decide 1 below lower, down above upper, else nothing."""
        carry = np.zeros(4) if state is None else state.copy()
        index = np.empty(len(klines))
        relative_strength(klines.close, params.period, carry, index)
        target = np.full(len(klines), np.nan)
        target[index < params.lower] = 1.0
        target[index > params.upper] = mode.down
        return Signals(target), carry
