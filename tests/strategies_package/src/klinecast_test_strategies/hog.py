"""hog: takes memory, and keeps it while it computes."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals

MEGABYTE = 1_000_000


class HogParams(StrategyParams):
    """Params of hog."""

    mb: int = Field(default=100, ge=1, le=1_000_000, description="Megabytes to take")


class Hog(Strategy[HogParams]):
    """Holds all the time, and holds memory."""

    name = "hog"
    version = "1"
    description = "Takes memory, then buys and holds."
    Params = HogParams

    def warmup(self, params: HogParams) -> int:
        """Return 0."""
        return 0

    def compute(
        self, params: HogParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Touch every page of the memory, then decide 1 everywhere."""
        taken = [np.ones(MEGABYTE, np.uint8) for _ in range(params.mb)]
        return Signals(np.full(len(klines), float(taken[0][0])))
