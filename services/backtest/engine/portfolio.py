"""Several series at once: each from an account of its own (`combine`), or all from one (`simulate_shared`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from klinecast.types import (
    FILL_DTYPE,
    TRADE_DTYPE,
    ExecutionModel,
    FloatColumn,
    FundingColumns,
    IntrabarPolicy,
    KlineColumns,
    MarginMode,
    MarketType,
    Signals,
    TimeColumn,
)
from services.backtest.engine import shared_kernel, sums
from services.backtest.engine.errors import EngineError
from services.backtest.engine.kernel import FREE_ROWS
from services.backtest.engine.outcome import EngineState, Outcome, Run, read_outcome
from services.backtest.engine.records import Record, new_rules, new_state
from services.backtest.engine.validation import (
    NOTHING,
    count_missing_funding,
    require_klines,
    require_signals,
    require_supported,
)

_OPTIONAL = ("stop_loss", "take_profit", "trailing_stop", "limit_price", "stop_price")
_NO_TIMES = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortfolioOutcome:
    """What a run over several series produced; columns hold an instant of the common timeline each."""

    open_time_ms: TimeColumn
    """Every open_time at which one of the series has a kline, ascending."""
    equity: FloatColumn
    """Of the whole account, quote units; a series without a kline counts at its last close."""
    gross: FloatColumn
    """Sum of |quantity * close| over the series, quote units."""
    held_index: FloatColumn
    """Buying each series with an equal share at its first open and holding it, 1 at the start."""
    outcomes: tuple[Outcome, ...]
    """Of each series. Of a shared account their equity is empty: only the account has one."""
    initial_cash: float
    """Start money of all together, quote units."""
    bounds: tuple[float, float]
    """Total return under STOP_FIRST and under TARGET_FIRST."""
    ruined_at: int | None
    """Instant at which equity was gone; of separate accounts None unless all are gone."""


def combine(klines: Sequence[KlineColumns], outcomes: Sequence[Outcome]) -> PortfolioOutcome:
    """Put runs side by side that had an equal share of the money each; before its first kline a share is cash."""
    timeline = _timeline(klines)
    equity, gross = np.zeros(len(timeline)), np.zeros(len(timeline))
    for one, outcome in zip(klines, outcomes, strict=True):
        places = _places(one, timeline)
        equity += np.where(places < 0, outcome.initial_cash, outcome.equity[places])
        gross += np.where(places < 0, 0.0, np.abs(_positions(outcome, len(one)) * one.close)[places])
    initial = float(sum(outcome.initial_cash for outcome in outcomes))
    sums = [sum((1.0 + one.bounds[which]) * one.initial_cash for one in outcomes) for which in (0, 1)]
    gone = np.flatnonzero(equity <= 0.0)
    return PortfolioOutcome(
        open_time_ms=timeline,
        equity=equity,
        gross=gross,
        held_index=_held_index(klines, timeline),
        outcomes=tuple(outcomes),
        initial_cash=initial,
        bounds=(sums[0] / initial - 1.0, sums[1] / initial - 1.0),
        ruined_at=int(gone[0]) if len(gone) else None,
    )


def simulate_shared(
    klines: Sequence[KlineColumns],
    signals: Sequence[Signals],
    execution: ExecutionModel,
    initial_cash: float = 10_000.0,
    *,
    funding: Sequence[FundingColumns | None] | None = None,
    interval_ms: int | None = None,
) -> PortfolioOutcome:
    """Trade several series from one account.

    At one instant reductions come first, then increases in the order of the series, each sized on the account's equity
    there. max_leverage bounds the gross value of all positions. Raises EngineError naming series and kline.
    """
    account = _SharedAccount(klines, signals, execution, initial_cash, funding, interval_ms)
    main = account.run(execution.intrabar_policy)
    if not any(run.state["policy_used"][0] for run in main.runs):
        returns = [account.total_return(main)] * 2
    else:
        returns = [
            account.total_return(main if policy is execution.intrabar_policy else account.run(policy))
            for policy in (IntrabarPolicy.STOP_FIRST, IntrabarPolicy.TARGET_FIRST)
        ]
    return account.read(main, (returns[0], returns[1]))


@dataclass(slots=True)
class _Pass:
    """One pass over the timeline under one intrabar policy."""

    runs: list[Run]
    equity: FloatColumn
    gross: FloatColumn
    cash: float


class _SharedAccount:
    def __init__(
        self,
        klines: Sequence[KlineColumns],
        signals: Sequence[Signals],
        execution: ExecutionModel,
        initial_cash: float,
        funding: Sequence[FundingColumns | None] | None,
        interval_ms: int | None,
    ) -> None:
        if not klines or len(klines) != len(signals):
            raise ValueError(f"signals: {len(signals)} for {len(klines)} series")
        if not 0.0 < initial_cash < float("inf"):
            raise ValueError(f"initial_cash: {initial_cash} is not above 0")
        if execution.market_type is not MarketType.SPOT and execution.margin_mode is MarginMode.CROSS:
            raise EngineError("UNSUPPORTED_EXECUTION", None, "margin_mode CROSS needs an account of its own")
        owed = list(funding) if funding is not None else [None] * len(klines)
        self._klines, self._signals, self._execution = list(klines), list(signals), execution
        self._cash = float(initial_cash)
        self._spans, self._missing = [], []
        for number, (one, decided, paid) in enumerate(zip(klines, signals, owed, strict=True)):
            span, missing = _checked(number, one, decided, paid, execution, interval_ms)
            self._spans.append(span)
            self._missing.append(missing)
        self._timeline = _timeline(klines)
        self._market: list[Any] = [np.concatenate([getattr(one, name) for one in klines]) for name in _PRICES]
        self._decisions: list[Any] = [np.concatenate([one.target_exposure for one in signals])]
        self._decisions += [_joined(klines, signals, name, execution) for name in _OPTIONAL]
        self._offsets = _offsets([len(one) for one in klines])
        given = [one or FundingColumns(_NO_TIMES, NOTHING, NOTHING) for one in owed]
        self._funding_offsets = _offsets([len(one) for one in given])
        self._funding: list[Any] = [np.concatenate([getattr(one, name) for one in given]) for name in _FUNDING]

    def run(self, policy: IntrabarPolicy) -> _Pass:
        """Simulate the whole timeline under a policy."""
        count, instants = len(self._klines), len(self._timeline)
        states = np.concatenate([new_state(self._cash, span) for span in self._spans])
        for number, (owed, missing) in enumerate(zip(self._funding_of_each(), self._missing, strict=True)):
            states["funding_at"][number] = np.searchsorted(owed, self._klines[number].open_time_ms[0])
            states["missing_funding"][number] = missing
        rules = new_rules(self._execution, policy)
        account, marks, here = np.array([self._cash]), np.ones(count), np.zeros(count, np.int64)
        equity, gross = np.empty(instants), np.empty(instants)
        rows = max(map(len, self._klines)) // 16 + FREE_ROWS
        fills, trades = np.empty((count, rows), FILL_DTYPE), np.empty((count, rows), TRADE_DTYPE)
        at = 0
        while at < instants:
            columns: Any = (*self._market, *self._decisions, self._funding_offsets, *self._funding)
            at = shared_kernel.advance_shared(  # type: ignore[call-arg]
                states, rules, self._timeline, self._offsets, *columns,
                account, here, marks, equity, gross, fills, trades, at, instants,
            )  # fmt: skip
            if at < instants:
                fills, trades = _wider(fills), _wider(trades)
        self._end(states, rules, account, marks, equity, fills, trades)
        runs = [Run(states[one : one + 1], rules, NOTHING, fills[one], trades[one]) for one in range(count)]
        return _Pass(runs, equity, gross, float(account[0]))

    def total_return(self, done: _Pass) -> float:
        """Return final equity / initial cash - 1."""
        return float(done.equity[-1]) / self._cash - 1.0

    def read(self, done: _Pass, bounds: tuple[float, float]) -> PortfolioOutcome:
        """Read the outcome of a pass."""
        outcomes = []
        for run, decided in zip(done.runs, self._signals, strict=True):
            run.state["cash"] = done.cash
            run.state["pending_target"] = decided.target_exposure[-1]
            state = EngineState.of(run.state, None, None)
            outcome = read_outcome(run, state, bounds=bounds, execution=self._execution, first_quantity=0.0)
            outcomes.append(dataclasses.replace(outcome, first_index=0))
        ruined = np.flatnonzero(done.equity <= 0.0)
        return PortfolioOutcome(
            open_time_ms=self._timeline,
            equity=done.equity,
            gross=done.gross,
            held_index=_held_index(self._klines, self._timeline),
            outcomes=tuple(outcomes),
            initial_cash=self._cash,
            bounds=bounds,
            ruined_at=int(ruined[0]) if len(ruined) else None,
        )

    def _end(
        self, states: Record, rules: Record, account: FloatColumn, marks: FloatColumn, equity: FloatColumn,
        fills: Record, trades: Record,
    ) -> None:  # fmt: skip
        shared_kernel.end_shared(states, rules, account, marks, fills, trades, int(self._execution.close_at_end))
        if self._execution.close_at_end and states["ruined_at"][0] < 0:
            equity[-1] = account[0]

    def _funding_of_each(self) -> list[TimeColumn]:
        times = self._funding[0]
        return [times[start:end] for start, end in zip(self._funding_offsets, self._funding_offsets[1:], strict=False)]


_PRICES = ("open_time_ms", "open", "high", "low", "close")
_FUNDING = ("time_ms", "rate", "mark_price")


def _checked(
    number: int,
    klines: KlineColumns,
    signals: Signals,
    funding: FundingColumns | None,
    execution: ExecutionModel,
    interval_ms: int | None,
) -> tuple[int, int]:
    """Return the span and the missing funding stamps of a series; an EngineError names the series."""
    try:
        require_supported(execution, funding)
        span = require_klines(klines, None, 0)
        span = interval_ms or span
        require_signals(signals, len(klines), execution, 0)
        start, end = int(klines.open_time_ms[0]), int(klines.open_time_ms[-1]) + span
        return span, count_missing_funding(klines, funding, execution, start_ms=start, end_ms=end, base=0)
    except EngineError as error:
        raise EngineError(error.reason, error.kline_index, f"series {number}: {error.detail}") from None


def _timeline(klines: Sequence[KlineColumns]) -> TimeColumn:
    return np.unique(np.concatenate([one.open_time_ms for one in klines]))


def _places(klines: KlineColumns, timeline: TimeColumn) -> TimeColumn:
    """Return the index of the last kline at or before each instant, -1 before the first."""
    return np.searchsorted(klines.open_time_ms, timeline, side="right") - 1


def _positions(outcome: Outcome, count: int) -> FloatColumn:
    """Return the quantity held at each close, close_at_end not counted."""
    held = np.empty(count)
    sums.positions(outcome.fills, outcome.first_index, outcome.first_quantity, held)
    return held


def _held_index(klines: Sequence[KlineColumns], timeline: TimeColumn) -> FloatColumn:
    index = np.zeros(len(timeline))
    for one in klines:
        places = _places(one, timeline)
        index += np.where(places < 0, 1.0, one.close[places] / one.open[0])
    return index / len(klines)


def _joined(
    klines: Sequence[KlineColumns], signals: Sequence[Signals], name: str, execution: ExecutionModel
) -> FloatColumn:
    """Return an optional column of all series, of length 0 where none gives it."""
    if all(getattr(one, name) is None for one in signals):
        return NOTHING
    usual = getattr(execution, name, None)
    otherwise = np.nan if usual is None else usual
    return np.concatenate(
        [
            np.full(len(one), otherwise) if getattr(decided, name) is None else getattr(decided, name)
            for one, decided in zip(klines, signals, strict=True)
        ]
    )


def _offsets(lengths: Sequence[int]) -> TimeColumn:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _wider(rows: Record) -> Record:
    wider = np.empty((rows.shape[0], 2 * rows.shape[1]), rows.dtype)
    wider[:, : rows.shape[1]] = rows
    return wider
