"""The face of an executor: it only delivers ids, the claimed row decides who runs what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.backtest.jobs import State


@dataclass(frozen=True, slots=True)
class Finished:
    """A terminal state that a worker of this executor, or its parent, committed."""

    state: State
    timings_s: Mapping[str, float]


class Listener(Protocol):
    """Who wants to know what workers do; called from a thread of the pool's."""

    def event_stored(self, backtest_id: str) -> None:
        """Notice that an event was committed."""

    def finished(self, finished: Finished) -> None:
        """Notice that a terminal state was committed."""

    def slot_freed(self) -> None:
        """Notice that another backtest could be delivered."""


class Executor(Protocol):
    """Delivers backtests to workers."""

    @property
    def ready(self) -> bool:
        """Whether backtests can be delivered without waiting for a worker to start."""

    def start(self) -> None:
        """Start what delivers."""

    def free_slots(self) -> int | None:
        """Return how many backtests could be delivered now; None: ask the announced pools."""

    def deliver(self, backtest_id: str) -> None:
        """Hand a backtest to a worker; what is lost on the way is delivered again later."""

    def stop(self, grace_s: float) -> None:
        """Let workers finish within the grace, hand back what they did not, end them. Blocks; may be called again."""
