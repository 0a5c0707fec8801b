"""What a run reads, tells and produces."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from klinecast.backtest_config import BacktestConfig
from klinecast.interval import Interval, missing_between, next_open, previous_open
from klinecast.series import SeriesKey
from klinecast.types import FundingColumns, KlineColumns, TimeColumn
from services.backtest.engine import Outcome, PortfolioOutcome
from services.backtest.jobs import Failure, Phase
from services.backtest.reuse import Read

MAX_GAPS = 100


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
    """Warm-up included."""
    revision: int
    source_interval: Interval
    reads: tuple[Read, ...] | None
    """What was asked of the data service; None where it changed under the reader, so that nothing can be told."""
    funding: FundingColumns | None = None
    """Of a perpetual, where any is stored."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    phase: Phase
    klines_done: int = 0
    klines_total: int = 0
    equity: float | None = None
    drawdown: float | None = None


@dataclass(slots=True)
class Pace:
    """How fast a phase goes, from its first progress on."""

    _first: Progress | None = None
    _since_s: float = 0.0

    def left_s(self, progress: Progress, now_s: float) -> float | None:
        """Return the seconds to the end of the phase at its rate so far; None before it has got anywhere."""
        if self._first is None or self._first.phase is not progress.phase:
            self._first, self._since_s = progress, now_s
        done = progress.klines_done - self._first.klines_done
        return (progress.klines_total - progress.klines_done) * (now_s - self._since_s) / done if done > 0 else None


@dataclass(frozen=True, slots=True)
class Gaps:
    """Runs of missing klines in what was read."""

    count: int
    missing: int
    """Klines missing in them."""
    first: tuple[tuple[int, int, int], ...]
    """The first 100: open_time of the first and last missing kline, how many."""

    @classmethod
    def of(cls, klines: KlineColumns, interval: Interval) -> Gaps:
        """Find the gaps of klines."""
        return cls.of_times(klines.open_time_ms, interval)

    @classmethod
    def of_times(cls, times: TimeColumn, interval: Interval) -> Gaps:
        """Find the gaps between open times."""
        missing = missing_between(times[:-1], times[1:], interval)
        places = missing.nonzero()[0]
        first = [
            (next_open(int(times[at]), interval), previous_open(int(times[at + 1]), interval), int(missing[at]))
            for at in places[:MAX_GAPS]
        ]
        return cls(len(places), int(missing.sum()), tuple(first))


@dataclass(frozen=True, slots=True)
class SeriesRun:
    """What a finished backtest produced of one series."""

    series: SeriesKey
    loaded: Loaded
    klines: KlineColumns
    """Those that were traded."""
    outcome: Outcome
    statistics: Mapping[str, float]
    gaps: Gaps
    finer: Loaded | None
    """Finer klines that decided ambiguous ones, None where none were needed."""
    continued_from: str = ""
    """The result that an earlier part was taken from."""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a finished backtest produced."""

    config: BacktestConfig
    series: tuple[SeriesRun, ...]
    portfolio: PortfolioOutcome | None
    """All series together; None where there is one."""
    statistics: Mapping[str, float]
    strategy_version: str
    code_hash: str
    continuation: bytes | None = None
    """Where it stands, for a longer one to go on from."""

    @property
    def reads(self) -> Sequence[Read] | None:
        """Everything that was asked of the data service; None where that cannot be told."""
        loaded = [one for part in self.series for one in (part.loaded, part.finer) if one is not None]
        known = [one.reads for one in loaded if one.reads is not None]
        return list(itertools.chain.from_iterable(known)) if len(known) == len(loaded) else None


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
            name = phase.value.lower()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
