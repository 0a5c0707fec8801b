"""crash: raises, exits or takes its process down."""

from __future__ import annotations

import os
import signal
import sys
from typing import Literal

from pydantic import Field

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals


class CrashParams(StrategyParams):
    """Params of crash."""

    how: Literal["raise", "sys_exit", "os_exit", "kill"] = Field(default="raise", description="Way to end")


class Crash(Strategy[CrashParams]):
    """Never gives signals."""

    name = "crash"
    version = "1"
    description = "Raises, exits, or kills its process."
    Params = CrashParams

    def warmup(self, params: CrashParams) -> int:
        """Return 0."""
        return 0

    def compute(
        self, params: CrashParams, klines: KlineColumns, mode: Mode, state: StrategyState | None = None
    ) -> Signals:
        """End as params say."""
        if params.how == "sys_exit":
            sys.exit(3)
        if params.how == "os_exit":
            os._exit(3)
        if params.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("crash was asked to crash")
