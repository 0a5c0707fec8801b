"""momentum: a strategy of columns. One array in, one array out, so that a year of klines takes a millisecond."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from klinecast.strategy import Memory, Mode, Strategy, StrategyParams, StrategyState, Window
from klinecast.types import KlineColumns, Signals


class MomentumParams(StrategyParams):
    """Params of momentum; a request outside these bounds is refused before it is queued."""

    lookback: int = Field(default=24, ge=1, le=10_000, description="Klines to look back")
    stop_loss: float = Field(
        default=0.05, gt=0, lt=1, description="Distance of the stop, a fraction of the entry price"
    )


class Momentum(Strategy[MomentumParams]):
    """Follows the sign of the return over the last klines."""

    name = "momentum"
    version = "1"
    description = "Long while the close is above the close `lookback` klines before; below it flat, or short."
    Params = MomentumParams

    def warmup(self, params: MomentumParams) -> int:
        """Return the index of the first kline with a close to compare with."""
        return params.lookback

    def memory(self, params: MomentumParams) -> Memory:
        """Return that a decision depends on the last lookback + 1 klines: a longer backtest can go on from this one."""
        return Window(params.lookback + 1)

    def compute(
        self, params: MomentumParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Decide at the close of each kline; NaN where there is nothing to compare with yet."""
        target = np.full(len(klines), np.nan)
        now, before = klines.close[params.lookback :], klines.close[: -params.lookback]
        target[params.lookback :] = np.where(now > before, 1.0, mode.down)
        return Signals(target, stop_loss=np.full(len(klines), params.stop_loss))
