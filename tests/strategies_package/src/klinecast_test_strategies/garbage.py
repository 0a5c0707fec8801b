"""garbage: returns what no engine can simulate, or spoils the klines it was shown."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals

How = Literal["list", "none", "text", "short", "long", "table", "infinite", "leverage", "stop", "both", "spoil"]


class GarbageParams(StrategyParams):
    """Params of garbage."""

    how: How = Field(default="list", description="What to return")


class Garbage(Strategy[GarbageParams]):
    """Never right; `spoil` buys and holds after it wrote over every price."""

    name = "garbage"
    version = "1"
    description = "Returns garbage."
    Params = GarbageParams

    def warmup(self, params: GarbageParams) -> int:
        """Return 0."""
        return 0

    def compute(
        self, params: GarbageParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Any:
        """Return garbage of a kind."""
        ones = np.ones(len(klines))
        bad = ones.copy()
        bad[5] = {"infinite": np.inf, "leverage": 1.5, "stop": 0.0}.get(params.how, 1.0)
        if params.how == "spoil":
            klines.open[:] = klines.close[:] = 1.0
        returned = {
            "list": [1.0] * len(klines),
            "none": None,
            "text": "buy",
            "short": Signals(ones[:-1]),
            "long": Signals(np.ones(len(klines) + 1)),
            "table": Signals(np.ones((len(klines), 2))),
            "stop": Signals(ones, stop_loss=bad),
            "both": Signals(ones, limit_price=ones, stop_price=ones),
            "spoil": Signals(ones),
        }
        return returned.get(params.how, Signals(bad))
