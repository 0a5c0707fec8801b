"""Runs one backtest: load, signals, simulate, statistics, save. Knows no gRPC and no database.

Several series are loaded, decided and simulated side by side, in threads: kernels hold no lock.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from klinecast.backtest_config import BacktestConfig
from klinecast.indicators import Indicator
from klinecast.series import SeriesKey
from klinecast.strategy import State, StrategyState, Window
from klinecast.types import Account, FloatColumn, KlineColumns, Signals
from services.backtest.catalogue import Catalogue, default_mode
from services.backtest.continuing import Continuation, Start, may_continue
from services.backtest.engine import (
    Outcome,
    PortfolioOutcome,
    Simulation,
    combine,
    simulate_events,
    simulate_shared,
)
from services.backtest.engine.statistics import (
    compute_portfolio_statistics,
    compute_share_statistics,
    compute_statistics,
)
from services.backtest.failures import blamed_on
from services.backtest.jobs import Phase
from services.backtest.run import Gaps, Loaded, Progress, Run, SeriesRun, Timings

SLICE = 131_072
"""Klines simulated between two looks at a cancel: about a millisecond."""
CORES = os.cpu_count() or 1
LOADERS = 8
"""Series that are read at once."""
_Report = Callable[[int, int, FloatColumn], None]
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(slots=True)
class _Part:
    """One series on its way."""

    series: SeriesKey
    loaded: Loaded
    klines: KlineColumns
    """Those to trade."""
    finer: Loaded | None = None
    """Finer klines, once there was something for them to decide."""
    start: Start | None = None
    """The finished backtest that this one goes on from."""
    handed_on: StrategyState | None = None
    """State of the strategy after its klines."""

    @property
    def gaps(self) -> Gaps:
        """Gaps in what was read."""
        if self.start is not None:
            return self.start.join_gaps(self.loaded, self.series.interval)
        return Gaps.of(self.loaded.klines, self.series.interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """The steps of a run; what touches the world comes as callables."""

    catalogue: Catalogue
    load: Callable[[BacktestConfig, SeriesKey, Sequence[Indicator]], Loaded]
    """Reads the klines of a series and indicators of them, warm-up before start included; raises RunFailed."""
    resume: Callable[[BacktestConfig, Window | State], tuple[Start, Loaded] | None]
    """Finds a shorter backtest to go on from, and reads the klines after it."""
    save: Callable[[Run], None]
    """Stores a result."""
    report: Callable[[Progress], None]
    """Tells progress; raises GivenUp when the backtest was cancelled."""

    def run(self, config: BacktestConfig, timings: Timings) -> Run:
        """Run a backtest; raise RunFailed with the reason, or GivenUp."""
        self.report(Progress(Phase.LOAD))
        with timings.measure(Phase.LOAD):
            parts = self._load(config)
        total = sum(_sizes(parts))
        self.report(Progress(Phase.SIGNALS, 0, total))
        outcomes, portfolio = self._outcomes(config, parts, timings)
        with timings.measure(Phase.STATISTICS):
            continuation = self._continuation(config, parts[0], outcomes[0])
            if parts[0].start is not None:
                outcomes[0], parts[0].klines = parts[0].start.join(outcomes[0], parts[0].klines)
            run = self._describe(config, parts, outcomes, portfolio, continuation)
        self.report(Progress(Phase.SAVE, total, total))
        with timings.measure(Phase.SAVE):
            self.save(run)
        return run

    def _load(self, config: BacktestConfig) -> list[_Part]:
        with blamed_on(config.strategy):
            indicators = self.catalogue.indicators(config.strategy, config.params)
            memory = self.catalogue.memory(config.strategy, config.params)
        found = self.resume(config, memory) if memory is not None and may_continue(config) else None
        if found is not None:
            start, loaded = found
            first = int(np.searchsorted(loaded.klines.open_time_ms, start.continuation.last_open_ms, side="right"))
            return [_Part(config.all_series[0], loaded, loaded.klines.slice(first), start=start)]

        def load(series: SeriesKey) -> _Part:
            loaded = self.load(config, series, indicators)
            first = int(np.searchsorted(loaded.klines.open_time_ms, config.start_ms))
            return _Part(series, loaded, loaded.klines.slice(first))

        return self._side_by_side(load, config.all_series, LOADERS, Phase.LOAD, [0] * len(config.all_series))

    def _outcomes(
        self, config: BacktestConfig, parts: Sequence[_Part], timings: Timings
    ) -> tuple[list[Outcome], PortfolioOutcome | None]:
        """Decide and simulate; return what each series came to, and all together where there are several."""
        if self.catalogue.is_event_driven(config.strategy):
            with timings.measure(Phase.SIMULATE):
                outcomes = self._simulate_each(config, parts, None)
        else:
            with timings.measure(Phase.SIGNALS):
                signals = self._side_by_side(
                    lambda part: self._signals(config, part), parts, CORES, Phase.SIGNALS, _sizes(parts)
                )
            with timings.measure(Phase.SIMULATE):
                if config.account is Account.SHARED and len(parts) > 1:
                    return self._simulate_shared(config, parts, signals)
                outcomes = self._simulate_each(config, parts, signals)
        klines = [part.klines for part in parts]
        return outcomes, combine(klines, outcomes) if len(parts) > 1 else None

    def _signals(self, config: BacktestConfig, part: _Part) -> Signals:
        """Return the signals of the klines to trade."""
        with blamed_on(config.strategy):
            mode = config.mode or default_mode(config.market_type)
            state = None if part.start is None else part.start.continuation.strategy
            signals, part.handed_on = self.catalogue.compute_signals(
                config.strategy, config.params, part.loaded.klines, mode, state
            )
            return _from(signals, len(part.loaded.klines), len(part.klines))

    def _simulate_each(
        self, config: BacktestConfig, parts: Sequence[_Part], signals: Sequence[Signals] | None
    ) -> list[Outcome]:
        """Simulate each series from its share of the money, again where finer klines have something to decide."""
        report = self._report_simulated if len(parts) == 1 else _keep_quiet

        def simulate(at: int) -> Outcome:
            part, decided = parts[at], None if signals is None else signals[at]
            share = config.initial_cash / len(parts)
            outcome = self._simulate(config, part, decided, share, report)
            if config.finer_interval is None or not outcome.ambiguous_klines:
                return outcome
            finer = dataclasses.replace(part.series, interval=config.finer_interval)
            part.finer = self.load(dataclasses.replace(config, warmup_klines=0), finer, ())
            return self._simulate(config, part, decided, share, report)

        return self._side_by_side(simulate, range(len(parts)), CORES, Phase.SIMULATE, _sizes(parts))

    def _simulate(
        self, config: BacktestConfig, part: _Part, signals: Signals | None, cash: float, report: _Report
    ) -> Outcome:
        with blamed_on(config.strategy):
            if signals is None:
                return self._simulate_events(config, part, cash, report)
            simulation = Simulation(
                part.klines, signals, config.execution, cash, funding=part.loaded.funding,
                state=None if part.start is None else part.start.continuation.engine,
                finer=None if part.finer is None else part.finer.klines, interval_ms=config.interval.span_ms,
            )  # fmt: skip
            for stop in [*range(SLICE, len(part.klines), SLICE), len(part.klines)]:
                simulation.advance(stop)
                report(stop, len(part.klines), simulation.equity)
            return simulation.finish()

    def _simulate_events(self, config: BacktestConfig, part: _Part, cash: float, report: _Report) -> Outcome:
        mode = config.mode or default_mode(config.market_type)
        outcome, _ = simulate_events(
            part.klines,
            self.catalogue.decider(config.strategy, config.params, mode),
            config.execution,
            cash,
            seen=part.loaded.klines.copy(),  # what a plug-in does to the klines is no business of the simulation
            funding=part.loaded.funding,
            finer=None if part.finer is None else part.finer.klines,
            interval_ms=config.interval.span_ms,
            report=lambda done, equity: report(done, len(part.klines), equity),
        )
        return outcome

    def _simulate_shared(
        self, config: BacktestConfig, parts: Sequence[_Part], signals: Sequence[Signals]
    ) -> tuple[list[Outcome], PortfolioOutcome]:
        with blamed_on(config.strategy):
            portfolio = simulate_shared(
                [part.klines for part in parts], signals, config.execution, config.initial_cash,
                funding=[part.loaded.funding for part in parts], interval_ms=config.interval.span_ms,
            )  # fmt: skip
        self._report_simulated(len(portfolio.equity), len(portfolio.equity), portfolio.equity)
        return list(portfolio.outcomes), portfolio

    def _describe(
        self,
        config: BacktestConfig,
        parts: Sequence[_Part],
        outcomes: Sequence[Outcome],
        portfolio: PortfolioOutcome | None,
        continuation: Continuation | None,
    ) -> Run:
        interval, convention = config.interval.value, config.statistics
        shared = portfolio is not None and config.account is Account.SHARED
        statistics = [
            compute_share_statistics(outcome, part.klines)
            if shared
            else compute_statistics(outcome, part.klines, interval=interval, convention=convention)
            for part, outcome in zip(parts, outcomes, strict=True)
        ]
        klines = [part.klines for part in parts]
        return Run(
            config=config,
            series=tuple(
                SeriesRun(
                    part.series,
                    part.loaded,
                    part.klines,
                    outcome,
                    found,
                    part.gaps,
                    part.finer,
                    continued_from="" if part.start is None else part.start.result_id,
                )
                for part, outcome, found in zip(parts, outcomes, statistics, strict=True)
            ),
            portfolio=portfolio,
            statistics=statistics[0]
            if portfolio is None
            else compute_portfolio_statistics(portfolio, klines, interval=interval, convention=convention),
            strategy_version=self.catalogue.version(config.strategy),
            code_hash=self.catalogue.code_hash(config.strategy),
            continuation=None if continuation is None else continuation.to_bytes(),
        )

    def _continuation(self, config: BacktestConfig, part: _Part, outcome: Outcome) -> Continuation | None:
        """Return where a run stands, where a longer one can go on from it."""
        memory = self.catalogue.memory(config.strategy, config.params)
        if not may_continue(config) or memory is None or (isinstance(memory, State) and part.handed_on is None):
            return None
        before = None if part.start is None else part.start.continuation
        return Continuation(
            outcome.state,
            part.handed_on if isinstance(memory, State) else None,
            float(part.klines.open[0]) if before is None else before.first_open,
            int(part.loaded.klines.open_time_ms[0]) if before is None else before.seen_from_ms,
            part.gaps,
        )

    def _report_simulated(self, done: int, total: int, equity: FloatColumn) -> None:
        now, peak = float(equity[-1]), float(equity.max())
        self.report(Progress(Phase.SIMULATE, done, total, now, now / peak - 1 if peak > 0 else None))

    def _side_by_side(
        self, step: Callable[[_T], _R], items: Sequence[_T], threads: int, phase: Phase, sizes: Sequence[int]
    ) -> list[_R]:
        """Do a step for every item, in this thread where there is one; what a step raises first ends all."""
        if len(items) == 1:
            return [step(items[0])]
        with ThreadPoolExecutor(min(threads, len(items))) as pool:
            try:
                return list(self._told(pool.map(step, items), phase, sizes))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _told(self, results: Iterable[_R], phase: Phase, sizes: Sequence[int]) -> Iterator[_R]:
        """Pass results on, telling the klines that are done: a cancel is noticed between two of them."""
        for done, result in zip(itertools.accumulate(sizes), results, strict=True):
            self.report(Progress(phase, done, sum(sizes)))
            yield result


def _sizes(parts: Iterable[_Part]) -> list[int]:
    return [len(part.klines) for part in parts]


def _keep_quiet(done: int, total: int, equity: FloatColumn) -> None:
    """Tell nothing: series that run side by side are told about as they finish."""


def _from(signals: Signals, seen: int, traded: int) -> Signals:
    """Return the signals of the last `traded` of `seen` klines; those of another length as they are, to be refused."""
    if seen == traded or len(signals) != seen:
        return signals
    columns = {one.name: getattr(signals, one.name) for one in dataclasses.fields(signals)}
    kept: dict[str, Any] = {
        name: None if column is None else column[seen - traded :] for name, column in columns.items()
    }
    return Signals(**kept)
