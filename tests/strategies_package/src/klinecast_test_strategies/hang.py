"""hang: never returns, and ignores what it is told."""

from __future__ import annotations

import signal
import time

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals


class HangParams(StrategyParams):
    """hang has no params."""


class Hang(Strategy[HangParams]):
    """Ends only with its process."""

    name = "hang"
    version = "1"
    description = "Never returns."
    Params = HangParams

    def warmup(self, params: HangParams) -> int:
        """Return 0."""
        return 0

    def compute(
        self, params: HangParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """Never return; swallow every exception and polite signal."""
        while True:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(1)
            except BaseException:
                continue
