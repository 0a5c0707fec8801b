"""Runs one backtest: load, signals, simulate, statistics, save. Knows no gRPC and no database."""

from __future__ import annotations

import dataclasses
import itertools
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from klinecast.backtest_config import BacktestConfig
from klinecast.indicators import Indicator
from klinecast.interval import Interval, missing_between, next_open, previous_open
from klinecast.types import FloatColumn, KlineColumns, MarketType, Signals
from services.backtest import strategies
from services.backtest.catalogue import Catalogue
from services.backtest.engine import DecisionFailed, EngineError, Outcome, Simulation, simulate_events
from services.backtest.engine.statistics import compute_statistics
from services.backtest.jobs import Failure, Phase

MAX_GAPS = 100
SLICE = 131_072
"""Klines simulated between two looks at a cancel: about a millisecond."""


class GivenUp(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The backtest was cancelled, or is not this worker's any more."""


class RunFailed(Exception):  # noqa: N818 - carries the failure that ends the backtest
    """The backtest cannot succeed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Loaded:
    """Klines as they were read."""

    klines: KlineColumns
    revision: int
    source_interval: Interval


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    phase: Phase
    klines_done: int = 0
    klines_total: int = 0
    equity: float | None = None
    drawdown: float | None = None


@dataclass(frozen=True, slots=True)
class Gaps:
    """Runs of missing klines in what was read."""

    count: int
    missing: int
    """Klines missing in them."""
    first: tuple[tuple[int, int, int], ...]
    """The first 100: open_time of the first and last missing kline, how many."""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a finished backtest produced."""

    config: BacktestConfig
    klines: KlineColumns
    """Those that were traded."""
    read: KlineColumns
    """Those that were read, warm-up included."""
    outcome: Outcome
    statistics: Mapping[str, float]
    revision: int
    source_interval: Interval
    gaps: Gaps
    strategy_version: str
    code_hash: str


@dataclass(slots=True)
class Timings:
    """Seconds spent per phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Add the time of a block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase.value.lower()] = self.seconds.get(phase.value.lower(), 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """The steps of a run; what touches the world comes as callables."""

    catalogue: Catalogue
    load: Callable[[BacktestConfig, Sequence[Indicator]], Loaded]
    """Reads the klines of a config and indicators of them, warm-up before start included; raises RunFailed."""
    save: Callable[[Run], None]
    """Stores a result."""
    report: Callable[[Progress], None]
    """Tells progress; raises GivenUp when the backtest was cancelled."""

    def run(self, config: BacktestConfig, timings: Timings) -> Run:
        """Run a backtest; raise RunFailed with the reason, or GivenUp."""
        self.report(Progress(Phase.LOAD))
        with timings.measure(Phase.LOAD):
            loaded = self.load(config, self._indicators(config))
        total = len(loaded.klines)
        self.report(Progress(Phase.SIGNALS, 0, total))
        first = int(np.searchsorted(loaded.klines.open_time_ms, config.start_ms))
        klines = loaded.klines.slice(first)
        if self.catalogue.is_event_driven(config.strategy):
            with timings.measure(Phase.SIMULATE):
                outcome = self._simulate_events(config, klines, loaded.klines)
        else:
            with timings.measure(Phase.SIGNALS):
                signals = self._signals(config, loaded.klines)
            with timings.measure(Phase.SIMULATE):
                outcome = self._simulate(config, klines, _from(signals, first))
        with timings.measure(Phase.STATISTICS):
            statistics = compute_statistics(
                outcome, klines, interval=config.series.interval.value, convention=config.statistics
            )
        run = self._describe(config, loaded, klines, outcome, statistics)
        self.report(Progress(Phase.SAVE, len(klines), len(klines)))
        with timings.measure(Phase.SAVE):
            self.save(run)
        return run

    def _indicators(self, config: BacktestConfig) -> Sequence[Indicator]:
        try:
            return self.catalogue.indicators(config.strategy, config.params)
        except Exception as error:
            raise RunFailed(_raised(config.strategy, error)) from None

    def _signals(self, config: BacktestConfig, klines: KlineColumns) -> Signals:
        mode = config.mode or default_mode(config.series.market_type)
        try:
            return self.catalogue.compute_signals(config.strategy, config.params, klines, mode)
        except EngineError as error:
            raise RunFailed(_engine_failure(error, config.strategy)) from None
        except MemoryError:
            raise RunFailed(Failure("RESOURCE", f"strategy {config.strategy} ran out of memory")) from None
        except Exception as error:
            raise RunFailed(_raised(config.strategy, error)) from None

    def _simulate(self, config: BacktestConfig, klines: KlineColumns, signals: Signals) -> Outcome:
        try:
            simulation = Simulation(klines, signals, config.execution, config.initial_cash)
            for stop in [*range(SLICE, len(klines), SLICE), len(klines)]:
                simulation.advance(stop)
                self.report(_simulated(stop, klines, simulation.equity))
            return simulation.finish()
        except EngineError as error:
            raise RunFailed(_engine_failure(error, config.strategy)) from None

    def _simulate_events(self, config: BacktestConfig, klines: KlineColumns, seen: KlineColumns) -> Outcome:
        mode = config.mode or default_mode(config.series.market_type)

        def report(done: int, equity: FloatColumn) -> None:
            self.report(_simulated(done, klines, equity))

        try:
            decide = self.catalogue.decider(config.strategy, config.params, mode)
            given = seen.copy()  # what a plug-in does to the klines is no business of the simulation
            return simulate_events(klines, decide, config.execution, config.initial_cash, seen=given, report=report)[0]
        except EngineError as error:
            raise RunFailed(_engine_failure(error, config.strategy)) from None
        except MemoryError:
            raise RunFailed(Failure("RESOURCE", f"strategy {config.strategy} ran out of memory")) from None
        except DecisionFailed as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise RunFailed(_raised(config.strategy, cause, error.kline_index)) from None

    def _describe(
        self,
        config: BacktestConfig,
        loaded: Loaded,
        klines: KlineColumns,
        outcome: Outcome,
        statistics: Mapping[str, float],
    ) -> Run:
        return Run(
            config=config,
            klines=klines,
            read=loaded.klines,
            outcome=outcome,
            statistics=statistics,
            revision=loaded.revision,
            source_interval=loaded.source_interval,
            gaps=_gaps_in(loaded.klines, config.series.interval),
            strategy_version=self.catalogue.version(config.strategy),
            code_hash=self.catalogue.code_hash(config.strategy),
        )


def _gaps_in(klines: KlineColumns, interval: Interval) -> Gaps:
    times = klines.open_time_ms
    missing = missing_between(times[:-1], times[1:], interval)
    places = np.flatnonzero(missing)
    first = [
        (next_open(int(times[at]), interval), previous_open(int(times[at + 1]), interval), int(missing[at]))
        for at in places[:MAX_GAPS]
    ]
    return Gaps(len(places), int(missing.sum()), tuple(first))


def _raised(strategy: str, error: Exception, kline_index: int | None = None) -> Failure:
    where = "" if kline_index is None else f" at kline {kline_index}"
    message = f"strategy {strategy} raised {type(error).__name__}{where}: {error}"
    return Failure("STRATEGY_FAILED", message[:500], kline_index, detail=_author_traceback(error))


def _simulated(done: int, klines: KlineColumns, equity: FloatColumn) -> Progress:
    now, peak = float(equity[-1]), float(equity.max())
    return Progress(Phase.SIMULATE, done, len(klines), now, now / peak - 1 if peak > 0 else None)


def default_mode(market_type: MarketType) -> str:
    """Return the mode of a config that names none: long_only on spot, long_short on perpetuals."""
    return "long_only" if market_type is MarketType.SPOT else "long_short"


def _from(signals: Signals, first: int) -> Signals:
    """Return the signals from a kline on."""
    if first == 0:
        return signals
    columns = {one.name: getattr(signals, one.name) for one in dataclasses.fields(signals)}
    kept: dict[str, Any] = {name: None if column is None else column[first:] for name, column in columns.items()}
    return Signals(**kept)


def _engine_failure(error: EngineError, strategy: str) -> Failure:
    reason = str(error.reason)
    known = (
        reason
        if reason in _REASONS
        else "UNSUPPORTED_EXECUTION"
        if reason.startswith("UNSUPPORTED")
        else "INVALID_SIGNALS"
    )
    return Failure(known, f"strategy {strategy}: {error}", error.kline_index)


_REASONS = frozenset({"INVALID_SIGNALS", "INVALID_EXPOSURE", "INVALID_KLINES", "UNSUPPORTED_MARKET_TYPE"})


def _is_ours(frame: traceback.FrameSummary) -> bool:
    own = Path(__file__).parent
    return Path(frame.filename).parent in (own, own / "engine") or frame.filename == strategies.__file__


def _author_traceback(error: Exception) -> str:
    """Format a traceback for the author of the strategy: frames from the strategy on, file names without folders."""
    frames = [
        f'  File "{Path(frame.filename).name}", line {frame.lineno}, in {frame.name}\n    {frame.line}'
        for frame in itertools.dropwhile(_is_ours, traceback.extract_tb(error.__traceback__))
    ]
    return "\n".join([*frames, f"{type(error).__name__}: {error}"])[:8_000]
