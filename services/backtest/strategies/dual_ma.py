"""dual_ma: long while a fast average of the closes is above a slow one."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from klinecast.strategy import Mode, State, Strategy, StrategyParams, StrategyState
from klinecast.types import FloatColumn, KlineColumns, Signals
from services.backtest.strategies.averages import crossing_sides, exponential_means, window_means


class DualMaParams(StrategyParams):
    """Params of dual_ma."""

    fast: int = Field(default=10, ge=1, le=9_999, description="Klines of the fast average")
    slow: int = Field(default=30, ge=2, le=10_000, description="Klines of the slow average, more than fast")
    average: Literal["sma", "ema"] = Field(default="sma", description="Simple or exponential average")

    @model_validator(mode="after")
    def _require_order(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"fast: {self.fast} is not below slow, {self.slow}")
        return self


class DualMa(Strategy[DualMaParams]):
    """Moving average crossover.

    The state is [count of old closes, the old closes, three numbers of each average]; the EMA keeps no closes.
    """

    name = "dual_ma"
    version = "1"
    description = "Long while the fast moving average of the close is above the slow one; below it flat, or short."
    Params = DualMaParams

    def warmup(self, params: DualMaParams) -> int:
        """Return the index of the first slow average."""
        return params.slow - 1

    def memory(self, params: DualMaParams) -> State:
        """Return that running sums and averages are handed on."""
        return State()

    def compute(
        self, params: DualMaParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> tuple[Signals, StrategyState]:
        """Decide 1 above, down below, nothing on a tie."""
        carries = [np.zeros(3), np.zeros(3)] if state is None else [state[-6:-3].copy(), state[-3:].copy()]
        if params.average == "ema":
            fast, slow = (_ema(klines.close, n, c) for n, c in zip((params.fast, params.slow), carries, strict=True))
            return _decide(fast, slow, mode), np.concatenate(carries)
        old = np.empty(0) if state is None else state[:-6]
        close = np.concatenate([old, klines.close]) if len(old) else klines.close
        fast, slow = (_sma(close, len(old), n, c) for n, c in zip((params.fast, params.slow), carries, strict=True))
        return _decide(fast, slow, mode), np.concatenate([close[-params.slow :], *carries])


def _ema(close: FloatColumn, period: int, carry: FloatColumn) -> FloatColumn:
    means = np.empty(len(close))
    exponential_means(close, 0, period, carry, means)
    return means


def _sma(close: FloatColumn, first: int, period: int, carry: FloatColumn) -> FloatColumn:
    means = np.empty(len(close))
    window_means(close, first, period, carry, means)
    return means[first:]


def _decide(fast: FloatColumn, slow: FloatColumn, mode: Mode) -> Signals:
    crossing_sides(fast, slow, slow, mode.down, fast)
    return Signals(fast)
