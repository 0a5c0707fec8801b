"""What a worker process and its parent say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.backtest.jobs import JobKey


@dataclass(frozen=True, slots=True)
class Run:
    """Claim this backtest and run it."""

    backtest_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up the backtest that is running, if it is this one."""

    backtest_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this process."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Warm and waiting."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The backtest is claimed under this fence and may run for so many seconds."""

    key: JobKey
    fence: int
    left_s: float


@dataclass(frozen=True, slots=True)
class Stored:
    """An event was committed."""

    backtest_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """A terminal state was committed."""

    backtest_id: str
    state: str
    timings_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Dropped:
    """The backtest was not claimed, or is not this worker's any more."""


ToWorker = Run | Cancel | Stop
FromWorker = Ready | Claimed | Stored | Done | Dropped
