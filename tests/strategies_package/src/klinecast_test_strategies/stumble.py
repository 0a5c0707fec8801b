"""stumble: event-driven, and wrong at one kline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from klinecast.strategy import EventStrategy, KlineContext, Mode, StrategyParams


class StumbleParams(StrategyParams):
    """Params of stumble."""

    at: int = Field(default=1_000_000, ge=0, description="Index of the kline")
    how: Literal["raise", "leverage", "nan", "loop"] = Field(default="raise", description="What to do there")


class Stumble(EventStrategy[StumbleParams]):
    """Buys at the first kline, and stumbles at one."""

    name = "stumble"
    version = "1"
    description = "Buys at the first kline, and stumbles at one."
    Params = StumbleParams

    def warmup(self, params: StumbleParams) -> int:
        """Return 0."""
        return 0

    def on_kline(self, params: StumbleParams, mode: Mode, context: KlineContext) -> None:
        """Order at the first kline; stumble."""
        if context.index == 0:
            context.order(1.0)
        if context.index == params.at:
            while params.how == "loop":
                pass
            if params.how == "raise":
                raise ZeroDivisionError("stumbled")
            context.order(float("nan") if params.how == "nan" else 7.0)
