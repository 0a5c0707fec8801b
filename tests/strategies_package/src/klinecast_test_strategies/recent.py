"""recent: remembers nothing but the last klines."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from klinecast.strategy import Memory, Mode, Strategy, StrategyParams, StrategyState, Window
from klinecast.types import KlineColumns, Signals


class RecentParams(StrategyParams):
    """Params of recent."""

    klines: int = Field(default=50, ge=1, le=1_000, description="Klines to look back")


class Recent(Strategy[RecentParams]):
    """Long above the close so many klines before."""

    name = "recent"
    version = "1"
    description = "Long while the close is above the close some klines before."
    Params = RecentParams

    def warmup(self, params: RecentParams) -> int:
        """Return the index of the first kline with a close to compare with."""
        return params.klines

    def memory(self, params: RecentParams) -> Memory:
        """Return that the klines looked back at, and the one that decides, are all it needs."""
        return Window(params.klines + 1)

    def compute(
        self, params: RecentParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Decide at each kline but the first."""
        target = np.full(len(klines), np.nan)
        target[params.klines :] = klines.close[params.klines :] > klines.close[: -params.klines]
        return Signals(target)
