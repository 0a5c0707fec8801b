"""dip_ladder: a strategy of events. What it does next depends on what it holds, which no column can say."""

from __future__ import annotations

from pydantic import Field

from klinecast.strategy import EventStrategy, KlineContext, Mode, StrategyParams


class DipLadderParams(StrategyParams):
    """Params of dip_ladder."""

    steps: int = Field(default=3, ge=1, le=20, description="Orders until all cash is in")
    spacing: float = Field(
        default=0.02, gt=0, lt=0.5, description="How far the close must fall for the next, a fraction"
    )
    profit: float = Field(default=0.03, gt=0, description="Gain over the average cost at which all is sold, a fraction")
    patience: int = Field(default=200, ge=1, description="Klines after which all is sold, whatever it brings")


class DipLadder(EventStrategy[DipLadderParams]):
    """Buys in steps while the price falls, and sells all at a gain over its average cost or when patience ends."""

    name = "dip_ladder"
    version = "1"
    description = (
        "Buys in steps, each further below the last, and sells all above its average cost, or when patience ends."
    )
    Params = DipLadderParams

    def warmup(self, params: DipLadderParams) -> int:
        """Return 0: the first kline can have an order."""
        return 0

    def on_kline(self, params: DipLadderParams, mode: Mode, context: KlineContext) -> None:
        """Sell all, or take the next step, or wait; a kline without an order changes nothing."""
        notes, close = context.memory, float(context.closes[-1])
        if context.entry_price is None:
            notes.update(step=1, since=context.index, bought_at=close)
            context.order(1 / params.steps)
        elif close >= context.entry_price * (1 + params.profit) or context.index - notes["since"] >= params.patience:
            context.close()
        elif notes["step"] < params.steps and close <= notes["bought_at"] * (1 - params.spacing):
            notes.update(step=notes["step"] + 1, bought_at=close)
            context.order(notes["step"] / params.steps)
