"""crash: raises, exits or takes its process down, and may leave another behind that holds all it held."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Literal

from pydantic import Field

from klinecast.strategy import Mode, Strategy, StrategyParams, StrategyState
from klinecast.types import KlineColumns, Signals

How = Literal["raise", "garbled", "sys_exit", "os_exit", "kill", "orphan"]


class CrashParams(StrategyParams):
    """Params of crash."""

    how: How = Field(default="raise", description="Way to end")


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
        if params.how == "orphan" and os.fork() == 0:
            time.sleep(120)
            os._exit(0)
        if params.how in ("kill", "orphan"):
            os.kill(os.getpid(), signal.SIGKILL)
        if params.how == "garbled":
            raise RuntimeError("a file named \udce9 with a \0")
        raise RuntimeError("crash was asked to crash")
