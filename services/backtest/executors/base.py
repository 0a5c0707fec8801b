"""The face of an executor: it only delivers ids, the claimed row decides who runs what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.backtest.jobs import Delivery, JobKey, State


@dataclass(frozen=True, slots=True)
class Finished:
    """A terminal state that a worker of this executor committed."""

    key: JobKey
    state: State
    timings_s: Mapping[str, float]


class Listener(Protocol):
    """Who wants to know what workers do."""

    def event_stored(self, key: JobKey) -> None:
        """Notice that an event was committed."""

    def finished(self, finished: Finished) -> None:
        """Notice that a terminal state was committed."""

    def slot_freed(self) -> None:
        """Notice that another backtest could be delivered."""


class Executor(Protocol):
    """Delivers backtests to workers."""

    async def start(self) -> None:
        """Start what delivers; return when the first worker is ready."""

    def free_slots(self) -> int:
        """Return how many backtests could be delivered now."""

    def deliver(self, delivery: Delivery) -> None:
        """Hand a backtest to a worker."""

    def cancel_soon(self) -> None:
        """Look for asked-for cancels now instead of at the next heartbeat."""

    async def stop(self, grace_s: float) -> None:
        """Let workers finish within the grace, hand back what they did not, end them."""
