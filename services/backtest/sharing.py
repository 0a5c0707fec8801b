"""Who is next: priority with ageing, fair shares between tenants within a priority, and limits. Pure.

Backtests of one tenant and priority wait in one queue, oldest first. Between queues of one priority shares are those of
start-time fair queueing (Goyal, Vin and Cheng, 1996): each start moves a queue's tag on by its cost / weight, and the
lowest tag is next. A queue that is passed over for AGEING_S moves up by one priority until it is served, so nothing
waits for ever; ageing counts from the queue's last start, so a long queue gains nothing by being long.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

AGEING_S = 120.0
"""A queue that is passed over for so long counts as one priority higher."""
HIGHEST = 9
_KLINES_PER_START = 500_000
"""Klines that cost as much as starting and saving a backtest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant may take; None is no limit."""

    weight: float = 1.0
    """Its share, beside that of other tenants of the same priority."""
    max_running: int | None = None
    """Backtests that run at once."""
    max_queued: int | None = None
    """Backtests that wait."""
    daily_klines: int | None = None
    """Klines its backtests of a UTC day may read."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A backtest that waits."""

    backtest_id: str
    klines: int
    """It may read."""

    @property
    def cost(self) -> float:
        """What it takes of its tenant's share."""
        return 1.0 + self.klines / _KLINES_PER_START


@dataclass(slots=True, kw_only=True)
class Queue:
    """The backtests of a tenant and a priority."""

    tenant: str
    priority: int
    heads: Sequence[Waiting]
    """Those that are next, as many as there are slots at most."""
    passed_over_s: float
    """Since its last start, or since its head came if that is later."""
    started: float = 0.0
    """Tag at its last start."""
    finished: float = 0.0
    """Tag its next start gets at least."""
    taken: int = field(default=0, init=False)
    """How many of the heads were chosen."""

    def rank(self, clock: float) -> tuple[int, float, float]:
        """Return what the least of which is next, where the clock is the latest tag of the priority."""
        aged = 0 if self.taken else int(self.passed_over_s / AGEING_S)
        return -min(HIGHEST, self.priority + aged), max(clock, self.finished), -self.passed_over_s


def choose(
    queues: Sequence[Queue],
    slots: int,
    *,
    clocks: Mapping[int, float],
    busy: Mapping[str, int],
    limits_of: Callable[[str], Limits],
) -> list[Waiting]:
    """Choose up to `slots` backtests, best first, moving the tags of their queues.

    clocks: latest tag ever started at, per priority; busy: backtests running or delivered, per tenant.
    """
    running, clock = Counter(busy), defaultdict(float, clocks)
    limits = {one.tenant: limits_of(one.tenant) for one in queues}
    chosen: list[Waiting] = []
    while len(chosen) < slots:
        ready = [one for one in queues if one.taken < len(one.heads) and _has_room(one, running, limits)]
        if not ready:
            break
        best = min(ready, key=lambda one: one.rank(clock[one.priority]))
        head = best.heads[best.taken]
        best.taken += 1
        best.started = clock[best.priority] = max(clock[best.priority], best.finished)
        best.finished = best.started + head.cost / limits[best.tenant].weight
        running[best.tenant] += 1
        chosen.append(head)
    return chosen


def _has_room(queue: Queue, running: Mapping[str, int], limits: Mapping[str, Limits]) -> bool:
    most = limits[queue.tenant].max_running
    return most is None or running[queue.tenant] < most
