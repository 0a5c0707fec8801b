"""buy_and_hold: what every other strategy is measured against."""

from __future__ import annotations

import numpy as np

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState, Window
from klinecast.types import KlineColumns, Signals


class BuyAndHoldParams(StrategyParams):
    """buy_and_hold has no params."""


class BuyAndHold(Strategy[BuyAndHoldParams]):
    """Long from the first kline on."""

    name = "buy_and_hold"
    version = "1"
    description = "Long from the first kline to the last."
    Params = BuyAndHoldParams

    def warmup(self, params: BuyAndHoldParams) -> int:
        """Return 0: it decides at once."""
        return 0

    def memory(self, params: BuyAndHoldParams) -> Window:
        """Return that a decision looks at its own kline only."""
        return Window(1)

    def compute(
        self, params: BuyAndHoldParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Decide 1 everywhere."""
        return Signals(np.ones(len(klines)))
