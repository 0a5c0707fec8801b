"""A run over klines: in one go (`simulate`) or in slices (`Simulation`), from the start or from a state."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from klinecast.types import (
    FILL_DTYPE,
    TRADE_DTYPE,
    ExecutionModel,
    FillTiming,
    FloatColumn,
    FundingColumns,
    IntrabarPolicy,
    KlineColumns,
    Signals,
)
from services.backtest.engine import kernel
from services.backtest.engine.finer import FinerColumns
from services.backtest.engine.outcome import EngineState, Outcome, Run, read_outcome
from services.backtest.engine.records import Record, copied, new_rules, new_state
from services.backtest.engine.validation import (
    NOTHING,
    count_missing_funding,
    optional_columns,
    require_klines,
    require_signals,
    require_supported,
)

_PENDING = tuple(
    f"pending_{name}" for name in ("target", "stop_loss", "take_profit", "trailing_stop", "limit_price", "stop_price")
)
_NO_FUNDING = FundingColumns(np.empty(0, np.int64), NOTHING, NOTHING)
_KLINES_PER_ROW = 16
"""Logs begin with a row for so many klines; memory that no row is written to is never touched."""


class Account(NamedTuple):
    """What is held between two klines."""

    quantity: float
    """Base units, signed."""
    entry_price: float | None
    """Average cost, quote units; None when flat."""
    cash: float
    """Free money, quote units."""
    equity: float
    """cash + quantity * close, quote units."""

    @classmethod
    def of(cls, state: Record) -> Self:
        """Read a state."""
        row = state[0]
        quantity = float(row["quantity"])
        entry_price = float(row["entry"]) if quantity else None
        return cls(quantity, entry_price, float(row["cash"]), float(row["equity"]))


class Simulation:
    """A run that can stop between klines: advance(until) as often as wanted, then finish().

    Raises EngineError where the inputs cannot be simulated, ValueError where initial_cash is not above 0.
    interval_ms is the span of a kline; None takes the smallest distance of open times.
    """

    def __init__(
        self,
        klines: KlineColumns,
        signals: Signals,
        execution: ExecutionModel,
        initial_cash: float = 10_000.0,
        *,
        funding: FundingColumns | None = None,
        finer: KlineColumns | None = None,
        state: EngineState | None = None,
        interval_ms: int | None = None,
    ) -> None:
        if not 0.0 < initial_cash < float("inf"):
            raise ValueError(f"initial_cash: {initial_cash} is not above 0")
        base = 0 if state is None else state.next_index
        require_supported(execution, funding)
        seen_ms = require_klines(klines, None if state is None else state.last_open_ms, base)
        require_signals(signals, len(klines), execution, base)
        self._klines = klines
        self._execution = execution
        self._given = state
        self._span_ms = interval_ms or _span_ms(seen_ms, state)
        self._initial_cash = float(initial_cash)
        self._first_quantity = 0.0 if state is None else float(state.record()["quantity"][0])
        self._funding = funding
        self._missing = self._count_missing(base)
        self._market = (klines.open_time_ms, klines.open, klines.high, klines.low, klines.close)
        self._decisions = (signals.target_exposure, *optional_columns(signals))
        self._paid = funding or _NO_FUNDING
        self._finer = FinerColumns.of(klines, finer, self._span_ms)
        self._run = self._new_run(execution.intrabar_policy)
        self._index = 0

    @property
    def index(self) -> int:
        """Klines of this call that are done."""
        return self._index

    @property
    def equity(self) -> FloatColumn:
        """Equity at the closes of the klines of this call that are done, quote units; a view."""
        return self._run.equity[: self._index]

    def advance(self, until_index: int) -> None:
        """Simulate up to, not including, kline until_index of the klines given."""
        until = min(until_index, len(self._klines))
        if until > self._index:
            self._advance(self._run, self._index, until)
            self._index = until

    @property
    def account(self) -> Account:
        """What is held after the klines that are done."""
        return Account.of(self._run.state)

    @property
    def ruined(self) -> bool:
        """Whether equity is gone."""
        return bool(self._run.state["ruined_at"][0] >= 0)

    @property
    def policy_used(self) -> bool:
        """Whether the intrabar policy decided anything."""
        return bool(self._run.state["policy_used"][0])

    @property
    def fill_timing(self) -> FillTiming:
        """When decisions fill."""
        return self._execution.fill_timing

    def preview(self, index: int) -> Account:
        """Return what will be held at the close of the next kline, before its own decision fills there."""
        rules = self._run.rules.copy()
        rules["every_kline"] = 0
        run = Run(copied(self._run.state), rules, self._run.equity, self._run.fills, self._run.trades)
        self._advance(run, index, index + 1)
        return Account.of(run.state)

    def note_last_decision(self) -> None:
        """Keep a decision that was made after its kline was simulated: a run that goes on begins with it."""
        for name, column in zip(_PENDING, self._decisions, strict=True):
            if len(column):
                self._run.state[name] = column[-1]

    def finish(self) -> Outcome:
        """Simulate what is left and return the outcome."""
        self.advance(len(self._klines))
        bounds = [self._bound_run(policy) for policy in (IntrabarPolicy.STOP_FIRST, IntrabarPolicy.TARGET_FIRST)]
        state = EngineState.of(self._run.state, *(None if run is self._run else run.state for run in bounds))
        for run in {id(run): run for run in (self._run, *bounds)}.values():
            self._end(run)
        returns = [float(run.state["equity"][0]) / self._started_with - 1.0 for run in bounds]
        return read_outcome(
            self._run,
            state,
            bounds=(returns[0], returns[1]),
            execution=self._execution,
            first_quantity=self._first_quantity,
        )

    @property
    def _started_with(self) -> float:
        return float(self._run.state["initial_cash"][0])

    def _bound_run(self, policy: IntrabarPolicy) -> Run:
        """Return the run under a policy; the main one where the policy never decided anything or is its own."""
        if policy is self._execution.intrabar_policy or not self._run.state["policy_used"][0]:
            return self._run
        run = self._new_run(policy)
        self._advance(run, 0, len(self._klines))
        return run

    def _new_run(self, policy: IntrabarPolicy) -> Run:
        length = len(self._klines)
        if self._given is None:
            state = new_state(self._initial_cash, self._span_ms)
        else:
            state = self._given.record(None if policy is self._execution.intrabar_policy else policy)
        state["funding_at"] = self._first_funding(state)
        state["span_ms"] = self._span_ms
        state["missing_funding"] += self._missing
        rows = length // _KLINES_PER_ROW + kernel.FREE_ROWS
        logs = np.empty(rows, FILL_DTYPE), np.empty(rows, TRADE_DTYPE)
        return Run(state, new_rules(self._execution, policy), np.empty(length), *logs)

    def _advance(self, run: Run, start: int, stop: int) -> None:
        at = start
        while True:
            at = kernel.advance(
                run.state, run.rules, *self._market, *self._decisions,
                self._paid.time_ms, self._paid.rate, self._paid.mark_price,
                self._finer.start, self._finer.end, self._finer.open, self._finer.high, self._finer.low,
                run.equity, run.fills, run.trades, at, stop,
            )  # fmt: skip
            if at >= stop:
                return
            run.fills = _grown(run.fills)
            run.trades = _grown(run.trades)

    def _end(self, run: Run) -> None:
        if len(run.fills) < int(run.state["fill_count"][0]) + 1:
            run.fills, run.trades = _grown(run.fills), _grown(run.trades)
        close = float(self._klines.close[-1])
        kernel.end_run(run.state, run.rules, run.fills, run.trades, close, int(self._execution.close_at_end))
        run.equity[-1] = run.state["equity"][0]

    def _count_missing(self, base: int) -> int:
        times = self._klines.open_time_ms
        start = int(times[0]) if self._given is None else self._given.end_ms
        end = int(times[-1]) + self._span_ms
        return count_missing_funding(
            self._klines, self._funding, self._execution, start_ms=start, end_ms=end, base=base
        )

    def _first_funding(self, state: Record) -> int:
        if self._funding is None:
            return 0
        start = int(self._klines.open_time_ms[0]) if self._given is None else self._given.end_ms
        return int(np.searchsorted(self._funding.time_ms, start))


def simulate(
    klines: KlineColumns,
    signals: Signals,
    execution: ExecutionModel,
    initial_cash: float = 10_000.0,
    *,
    funding: FundingColumns | None = None,
    finer: KlineColumns | None = None,
    state: EngineState | None = None,
    interval_ms: int | None = None,
) -> Outcome:
    """Simulate all klines; with a state, those after its klines (initial_cash is then its own).

    Raises EngineError naming the kline where the inputs cannot be simulated.
    """
    run = Simulation(
        klines, signals, execution, initial_cash, funding=funding, finer=finer, state=state, interval_ms=interval_ms
    )
    return run.finish()


def _span_ms(here: int, state: EngineState | None) -> int:
    seen = 0 if state is None else state.span_ms
    return min(seen, here) if seen and here else seen or here


def _grown(rows: Record) -> Record:
    larger = np.empty(2 * len(rows), rows.dtype)
    larger[: len(rows)] = rows
    return larger
