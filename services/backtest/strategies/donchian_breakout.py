"""donchian_breakout: long above the highest price of the klines before, until below the lowest of fewer of them."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from klinecast.strategy import Mode, State, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals
from services.backtest.strategies.channels import breakout_sides, highest_before


class DonchianBreakoutParams(StrategyParams):
    """Params of donchian_breakout."""

    entry: int = Field(
        default=20, ge=1, le=10_000, description="Klines before whose extreme a close must break to enter"
    )
    exit: int = Field(
        default=10, ge=1, le=10_000, description="Klines before whose other extreme ends it, at most entry"
    )

    @model_validator(mode="after")
    def _require_order(self) -> Self:
        if self.exit > self.entry:
            raise ValueError(f"exit: {self.exit} is above entry, {self.entry}")
        return self


class DonchianBreakout(Strategy[DonchianBreakoutParams]):
    """Channel breakout, the rule of the Turtles; the state is [old highs, old lows, the side]."""

    name = "donchian_breakout"
    version = "1"
    description = (
        "Long when the close breaks the highest high of the klines before, or short below the lowest low, until it "
        "breaks the opposite extreme of a shorter stretch."
    )
    Params = DonchianBreakoutParams

    def warmup(self, params: DonchianBreakoutParams) -> int:
        """Return the index of the first kline with a whole channel before it."""
        return params.entry

    def memory(self, params: DonchianBreakoutParams) -> State:
        """Return that the side is handed on, and the klines of the channel."""
        return State()

    def compute(
        self, params: DonchianBreakoutParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> tuple[Signals, StrategyState]:
        """Decide the side where it changes."""
        old = 0 if state is None else len(state) // 2
        highs, lows, side = (state[:old], state[old:-1], state[-1]) if state is not None else (_NONE, _NONE, 0.0)
        high, low = np.concatenate([highs, klines.high]), np.concatenate([lows, klines.low])
        bounds, waiting = np.empty((4, len(high))), np.empty(len(high), np.int64)
        highest_before(high, params.entry, 1.0, bounds[0], waiting)
        highest_before(low, params.entry, -1.0, bounds[1], waiting)
        highest_before(high, params.exit, 1.0, bounds[2], waiting)
        highest_before(low, params.exit, -1.0, bounds[3], waiting)
        target = np.empty(len(klines))
        side = breakout_sides(klines.close, bounds[:, old:].copy(), side, mode.down, target)
        return Signals(target), np.concatenate([high[-params.entry :], low[-params.entry :], [side]])


_NONE = np.empty(0)
