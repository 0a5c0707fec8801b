"""The engine: klines and signals in, fills, trades and equity out. Pure: no clock, no randomness, no I/O."""

import numpy as np

from klinecast.types import ExecutionModel, FillReason, FundingColumns, KlineColumns, Signals
from services.backtest.engine.errors import DecisionFailed, EngineError
from services.backtest.engine.events import Context, simulate_events
from services.backtest.engine.outcome import ENGINE_VERSION, EngineState, Outcome
from services.backtest.engine.portfolio import PortfolioOutcome, combine, simulate_shared
from services.backtest.engine.simulation import Simulation, simulate

__all__ = [
    "ENGINE_VERSION",
    "Context",
    "DecisionFailed",
    "EngineError",
    "EngineState",
    "ExecutionModel",
    "FillReason",
    "FundingColumns",
    "KlineColumns",
    "Outcome",
    "PortfolioOutcome",
    "Signals",
    "Simulation",
    "combine",
    "simulate",
    "simulate_events",
    "simulate_shared",
    "warm",
]


def warm() -> None:
    """Load every kernel and run it once, so that the first backtest does not pay for it."""
    from services.backtest.engine.statistics import compute_statistics

    prices = np.array([1.0, 2.0, 3.0])
    klines = KlineColumns(np.arange(3) * 3_600_000, prices, prices, prices, prices, prices)
    outcome = simulate(klines, Signals(np.array([1.0, 0.0, np.nan])), ExecutionModel())
    compute_statistics(outcome, klines)
