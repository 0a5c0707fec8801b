"""macd: long while the MACD line is above its signal line."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from klinecast.strategy import Mode, State, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals
from services.backtest.strategies.averages import crossing_sides, exponential_means


class MacdParams(StrategyParams):
    """Params of macd."""

    fast: int = Field(default=12, ge=2, le=9_999, description="Klines of the fast EMA")
    slow: int = Field(default=26, ge=3, le=10_000, description="Klines of the slow EMA, more than fast")
    signal: int = Field(default=9, ge=1, le=10_000, description="Values of the signal line's EMA")

    @model_validator(mode="after")
    def _require_order(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"fast: {self.fast} is not below slow, {self.slow}")
        return self


class Macd(Strategy[MacdParams]):
    """Moving average convergence divergence; the state is two numbers of each of the three EMAs."""

    name = "macd"
    version = "1"
    description = "Long while the MACD line is above its signal line; below it flat, or short."
    Params = MacdParams

    def warmup(self, params: MacdParams) -> int:
        """Return the index of the first signal line."""
        return params.slow + params.signal - 2

    def memory(self, params: MacdParams) -> State:
        """Return that the three EMAs are handed on."""
        return State()

    def compute(
        self, params: MacdParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> tuple[Signals, StrategyState]:
        """Decide 1 above, down below, nothing on a tie; as in TA-Lib both EMAs start at slow - 1."""
        carry = np.zeros(6) if state is None else state.copy()
        fast, slow, signal = np.empty(len(klines)), np.empty(len(klines)), np.empty(len(klines))
        exponential_means(klines.close, params.slow - params.fast, params.fast, carry[0:2], fast)
        exponential_means(klines.close, 0, params.slow, carry[2:4], slow)
        line = fast - slow
        exponential_means(line, 0, params.signal, carry[4:6], signal)
        crossing_sides(line, signal, klines.close, mode.down, line)
        return Signals(line), carry
