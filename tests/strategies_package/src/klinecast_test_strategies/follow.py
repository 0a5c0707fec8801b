"""follow: asks the data service for an average and for a stored series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from klinecast.indicators import Indicator
from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals


class FollowParams(StrategyParams):
    """Params of follow."""

    period: int = Field(default=20, ge=2, le=1000, description="Klines averaged")
    stored: str = Field(default="sentiment", description="Stored series that must be positive")


class Follow(Strategy[FollowParams]):
    """Decides by indicators alone."""

    name = "follow"
    version = "1"
    description = "Long while the close is above its average and a stored series is positive."
    Params = FollowParams

    def warmup(self, params: FollowParams) -> int:
        """Return 0: the average is warm before the first kline."""
        return 0

    def indicators(self, params: FollowParams) -> Sequence[Indicator]:
        """Return the average and the stored series."""
        return (
            Indicator("EMA", {"timeperiod": params.period}, label="average"),
            Indicator(params.stored, label="mood"),
        )

    def compute(
        self, params: FollowParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Compare."""
        average, mood = klines.indicators["average"], klines.indicators["mood"]
        return Signals(np.where((klines.close > average) & (mood > 0), 1.0, mode.down))
