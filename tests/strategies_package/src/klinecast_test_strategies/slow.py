"""slow: takes its time, in small steps."""

from __future__ import annotations

import time

import numpy as np
from pydantic import Field

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals

STEP_S = 0.02


class SlowParams(StrategyParams):
    """Params of slow."""

    seconds: float = Field(default=1.0, ge=0, le=3_600, description="Time to take")


class Slow(Strategy[SlowParams]):
    """Holds all the time, after a while."""

    name = "slow"
    version = "1"
    description = "Sleeps, then buys and holds."
    Params = SlowParams

    def warmup(self, params: SlowParams) -> int:
        """Return 0: the first kline decides."""
        return 0

    def compute(
        self, params: SlowParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Decide 1 everywhere once the time is over."""
        end = time.monotonic() + params.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(STEP_S, left))
        return Signals(np.ones(len(klines)))
