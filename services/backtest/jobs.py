"""The life of a backtest: its states, its limits in time, and what the store must be able to do with it.

QUEUED -> RUNNING -> SUCCEEDED | FAILED | CANCELLED. A worker that dies sends its backtest back to QUEUED. Every write
of a worker carries the fence it claimed with and is refused when a newer claim holds the row. All times are the
database's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

LEASE_S = 3.0
"""How long a claim lasts without a heartbeat."""
HEARTBEAT_S = 1.0
"""How often a claim is renewed, by the parent of the process that computes."""
REDELIVER_S = 2.0
"""After this long an unclaimed delivery may be delivered again."""
MAX_ATTEMPTS = 5
"""Attempts whose worker died before a backtest FAILED."""
CANCEL_GRACE_S = 0.7
"""How long a worker may take to notice a cancel before it is killed."""
WAKE_CHANNEL = "klinecast_backtest"
"""NOTIFY channel; the payload is CANCEL, or QUEUE and who says so, or a backtest id and its last event's number."""
QUEUE = "queue"
"""There is work to dispatch, or room for it."""
CANCEL = "cancel"
"""A cancel was asked for of a running backtest."""


class State(StrEnum):
    """Where a backtest is in its life."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether it is never left."""
        return self not in (State.QUEUED, State.RUNNING)


class Phase(StrEnum):
    """What a running backtest is doing."""

    LOAD = "LOAD"
    SIGNALS = "SIGNALS"
    SIMULATE = "SIMULATE"
    STATISTICS = "STATISTICS"
    SAVE = "SAVE"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a backtest FAILED."""

    reason: str
    """An ErrorReason without its prefix."""
    message: str
    """For people."""
    kline_index: int | None = None
    """The kline it is about."""
    detail: str = ""
    """For the author of the strategy."""


@dataclass(frozen=True, slots=True)
class JobKey:
    """Whose backtest and which."""

    tenant: str
    backtest_id: str


@dataclass(frozen=True, slots=True)
class Job:
    """The row of a backtest."""

    key: JobKey
    config: bytes
    """The config as it was sent, serialised."""
    request_id: str | None
    state: State
    attempt: int
    fence: int
    cancel_requested: bool
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    last_sequence: int
    progress: Mapping[str, object]
    """phase, fraction_done, klines_done, klines_total of the latest progress."""
    timings_s: Mapping[str, float]
    result_id: str | None
    reused: bool
    failure: Failure | None
    result_expired: bool | None = False
    """Whether its result has gone; None: the results service is away."""


@dataclass(frozen=True, slots=True)
class Event:
    """One stored event of a backtest."""

    sequence: int
    event_time: datetime
    state: State
    attempt: int
    body: Mapping[str, object]
    """Everything else: phase, progress, queue_position, result_id, reused, failure, timings_s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which backtests to list, newest first."""

    states: Sequence[State] = ()
    strategy: str = ""
    page_size: int = 50
    after: str | None = None
    """The last backtest_id of the page before."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """A backtest whose worker died, and where it went."""

    key: JobKey
    state: State
    timings_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not terminal."""

    queued: int
    running: int
    oldest_s: float
    """How long the oldest queued one has waited; 0 when none does."""


class JobStore(Protocol):
    """What the service needs from its database."""

    async def get(self, key: JobKey) -> Job | None:
        """Return a job, None when there is none."""

    async def list(self, tenant: str, wanted: JobFilter) -> Sequence[Job]:
        """Return a page of jobs, newest first."""

    async def events(self, key: JobKey, after: int, limit: int) -> Sequence[Event]:
        """Return events after a sequence number, in order."""

    async def cancel(self, key: JobKey) -> Job | None:
        """Cancel a queued job, ask a running one to stop, leave a terminal one; return it as it is then."""

    async def rescue(self) -> Sequence[Rescued]:
        """Requeue the jobs whose lease ran out, or fail those out of attempts."""

    async def backlog(self) -> Backlog:
        """Count jobs that are queued and running."""

    async def unwanted(self, limit: int) -> Sequence[tuple[JobKey, int]]:
        """Return results to delete, with the fence up to which late saves are refused."""

    async def forget_unwanted(self, key: JobKey) -> None:
        """Strike a result off the list of those to delete."""

    async def sweep(self, state: State, keep_s: float, limit: int) -> int:
        """Delete jobs that ended in a state longer ago than that, events with them; return how many."""
