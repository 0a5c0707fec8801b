"""A run whose decisions are made kline after kline, by a callable that sees the account as it stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from klinecast.types import (
    ExecutionModel,
    FillTiming,
    FloatColumn,
    FundingColumns,
    IntrabarPolicy,
    KlineColumns,
    Signals,
    TargetUnit,
    TimeColumn,
)
from services.backtest.engine.errors import DecisionFailed, EngineError
from services.backtest.engine.outcome import Outcome
from services.backtest.engine.simulation import Account, Simulation

REPORT_EVERY = 1_024
"""Klines between two calls of `report`."""
_DISTANCES = ("stop_loss", "take_profit", "trailing_stop")
_COLUMNS = ("target_exposure", *_DISTANCES, "limit_price", "stop_price")


class Context:
    """A klinecast.strategy.KlineContext over klines of which the first `warm` are not traded."""

    __slots__ = ("_account", "_at", "_execution", "_klines", "_signals", "_warm", "memory")

    def __init__(self, klines: KlineColumns, warm: int, execution: ExecutionModel) -> None:
        self._klines = klines
        self._warm = warm
        self._execution = execution
        self._signals = {name: np.full(len(klines) - warm, np.nan) for name in _COLUMNS}
        self._at = 0
        self._account = Account(0.0, None, 0.0, 0.0)
        self.memory: dict[str, Any] = {}

    def signals(self) -> Signals:
        """Return the decisions as columns; they are written to as the run goes on."""
        return Signals(**self._signals)

    def move(self, at: int, account: Account) -> None:
        """Stand at the close of a kline, warm-up klines counted."""
        self._at = at
        self._account = account

    @property
    def index(self) -> int:
        """Which kline this is."""
        return self._at - self._warm

    @property
    def open_time_ms(self) -> int:
        """Start of this kline."""
        return int(self._klines.open_time_ms[self._at])

    @property
    def open_times_ms(self) -> TimeColumn:
        """Start of each kline so far."""
        return self._klines.open_time_ms[: self._at + 1]

    @property
    def opens(self) -> FloatColumn:
        """First price of each kline so far."""
        return self._klines.open[: self._at + 1]

    @property
    def highs(self) -> FloatColumn:
        """Highest price of each kline so far."""
        return self._klines.high[: self._at + 1]

    @property
    def lows(self) -> FloatColumn:
        """Lowest price of each kline so far."""
        return self._klines.low[: self._at + 1]

    @property
    def closes(self) -> FloatColumn:
        """Last price of each kline so far."""
        return self._klines.close[: self._at + 1]

    @property
    def volumes(self) -> FloatColumn:
        """Traded base units of each kline so far."""
        return self._klines.volume[: self._at + 1]

    def indicator(self, name: str) -> FloatColumn:
        """Return an indicator so far."""
        return self._klines.indicators[name][: self._at + 1]

    @property
    def quantity(self) -> float:
        """Position held now."""
        return self._account.quantity

    @property
    def entry_price(self) -> float | None:
        """Average cost of the position."""
        return self._account.entry_price

    @property
    def cash(self) -> float:
        """Free money now."""
        return self._account.cash

    @property
    def equity(self) -> float:
        """cash + quantity * close."""
        return self._account.equity

    def close(self) -> None:
        """Decide to hold nothing."""
        self.order(0.0)

    def order(
        self,
        target: float,
        *,
        stop_loss: float | None = None,
        take_profit: float | None = None,
        trailing_stop: float | None = None,
        limit_price: float | None = None,
        stop_price: float | None = None,
    ) -> None:
        """Decide the wanted position; EngineError naming the kline where it cannot be simulated."""
        index, execution = self.index, self._execution
        self._require_target(float(target))
        if limit_price is not None and stop_price is not None:
            raise EngineError("INVALID_SIGNALS", index, "limit_price and stop_price are both given")
        given = (stop_loss, take_profit, trailing_stop, limit_price, stop_price)
        for name, value in zip(_COLUMNS[1:], given, strict=True):
            if value is not None and not 0.0 < value < math.inf:
                raise EngineError("INVALID_SIGNALS", index, f"{name} is not above 0: {value}")
        if index < 0:
            return
        self._signals["target_exposure"][index] = target
        for name, value in zip(_COLUMNS[1:], given, strict=True):
            usual = getattr(execution, name) if name in _DISTANCES and value is None else value
            self._signals[name][index] = math.nan if usual is None else usual

    def _require_target(self, target: float) -> None:
        execution = self._execution
        if not math.isfinite(target):
            raise EngineError("INVALID_EXPOSURE", self.index, f"the target is {target}")
        if execution.target_unit is TargetUnit.EXPOSURE and abs(target) > execution.max_leverage:
            raise EngineError("INVALID_EXPOSURE", self.index, "the target exceeds max_leverage")
        if target < 0.0 and not execution.shorts_allowed:
            raise EngineError("INVALID_EXPOSURE", self.index, "shorts are not allowed")


def simulate_events(
    klines: KlineColumns,
    decide: Callable[[Context], None],
    execution: ExecutionModel,
    initial_cash: float = 10_000.0,
    *,
    seen: KlineColumns | None = None,
    funding: FundingColumns | None = None,
    finer: KlineColumns | None = None,
    interval_ms: int | None = None,
    report: Callable[[int, FloatColumn], None] = lambda done, equity: None,
) -> tuple[Outcome, Signals]:
    """Simulate all klines, asking at the close of each; return the outcome and what was decided.

    seen: the klines that are shown, those to trade last; warm-up klines before them are asked about, too, but their
    orders are dropped. With fill_timing THIS_CLOSE the account is shown as it is just before the order fills.
    """
    shown = klines if seen is None else seen

    def run(policy: IntrabarPolicy) -> tuple[Simulation, Signals]:
        model = dataclasses.replace(execution, intrabar_policy=policy)
        context = Context(shown, len(shown) - len(klines), model)
        signals = context.signals()
        simulation = Simulation(
            klines, signals, model, initial_cash, funding=funding, finer=finer, interval_ms=interval_ms
        )
        _decide_all(simulation, context, decide, len(shown), len(shown) - len(klines), report)
        return simulation, signals

    simulation, signals = run(execution.intrabar_policy)
    outcome = simulation.finish()
    if not simulation.policy_used:
        return outcome, signals
    first, second = (
        outcome if policy is execution.intrabar_policy else run(policy)[0].finish()
        for policy in (IntrabarPolicy.STOP_FIRST, IntrabarPolicy.TARGET_FIRST)
    )
    returns = tuple(float(one.equity[-1]) / one.initial_cash - 1.0 for one in (first, second))
    return dataclasses.replace(outcome, bounds=(returns[0], returns[1])), signals


def _decide_all(
    simulation: Simulation,
    context: Context,
    decide: Callable[[Context], None],
    count: int,
    warm: int,
    report: Callable[[int, FloatColumn], None],
) -> None:
    before_close = simulation.fill_timing is FillTiming.THIS_CLOSE
    for at in range(count):
        index = at - warm
        if index < 0:
            context.move(at, simulation.account)
        elif before_close:
            context.move(at, simulation.preview(index))
        else:
            simulation.advance(index + 1)
            context.move(at, simulation.account)
        if simulation.ruined:
            return
        try:
            decide(context)
        except EngineError:
            raise
        except Exception as error:
            raise DecisionFailed(index) from error
        if before_close and index >= 0:
            simulation.advance(index + 1)
        if index % REPORT_EVERY == REPORT_EVERY - 1:
            report(index + 1, simulation.equity)
    simulation.note_last_decision()
