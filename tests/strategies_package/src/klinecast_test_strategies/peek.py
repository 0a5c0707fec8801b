"""peek: looks one kline ahead, as no strategy may."""

from __future__ import annotations

import numpy as np

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals


class PeekParams(StrategyParams):
    """peek has no params."""


class Peek(Strategy[PeekParams]):
    """Knows the next close."""

    name = "peek"
    version = "1"
    description = "Long before every rise: it reads the next close."
    Params = PeekParams

    def warmup(self, params: PeekParams) -> int:
        """Return 0."""
        return 0

    def compute(
        self, params: PeekParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Decide by the kline after; nothing at the last."""
        target = np.full(len(klines), np.nan)
        target[:-1] = np.where(klines.close[1:] > klines.close[:-1], 1.0, mode.down)
        return Signals(target)
