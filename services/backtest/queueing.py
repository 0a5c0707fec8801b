"""What has not started yet: requests that became jobs, those that wait for an equal one, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.backtest.jobs import Job, JobKey
from services.backtest.sharing import Limits


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is stored when a backtest is created."""

    key: JobKey
    config: bytes
    request_id: str | None
    request_hash: bytes
    strategy: str
    priority: int
    deadline_s: float
    traceparent: str
    klines: int
    """Klines it may read."""
    reuse_key: bytes | None = None
    """Equal for equal requests to the same code; None: it computes whatever there is."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A backtest that succeeded, and on what it rests."""

    key: JobKey
    result_id: str
    reads: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Follower:
    """A backtest that waited for an equal one, which has ended."""

    job: Job
    leader_id: str
    leader: Earlier | None
    """None where the equal one did not succeed."""


@dataclass(frozen=True, slots=True)
class Created:
    """What a create found or made."""

    job: Job
    request_hash: bytes
    """Of the request that made the job: another hash means the request_id was used for something else."""
    follows: bool = False
    """Whether it waits for an equal one."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was created: the limit that was reached."""

    subject: str
    """`service`, or the tenant it is the limit of."""
    description: str
    retry_after_s: float


class QueueStore(Protocol):
    """What the service needs from its database to fill and empty the queue."""

    async def create(
        self, job: NewJob, limits: Limits, max_queued: int, looked_at: Sequence[str] = ()
    ) -> Created | Refused | None:
        """Store a job with its first event, or return the one stored under the same request_id.

        One with a reuse_key follows an equal one that waits or runs; None when an equal one has succeeded meanwhile
        that is not among those looked at. max_queued: backtests that may wait, of all tenants.
        """

    async def find_equal(self, tenant: str, reuse_key: bytes, looked_at: Sequence[str]) -> Sequence[Earlier]:
        """Return the latest equal backtests that succeeded, but for those looked at already."""

    async def forget_equal(self, key: JobKey) -> None:
        """Offer the result of a backtest to equal ones no more: what it read was rewritten for good."""

    async def create_reused(self, job: NewJob, result_id: str) -> Created:
        """Store a job that has its result already, or return the one stored under the same request_id."""

    async def followers(self, limit: int) -> Sequence[Follower]:
        """Return jobs whose leader has ended."""

    async def are_followers(self) -> bool:
        """Tell whether any job waits for a leader."""

    async def finish_reused(self, key: JobKey, result_id: str) -> bool:
        """End a waiting follower with its leader's result; False when it does not wait any more."""

    async def lead(self, key: JobKey, leader_id: str) -> None:
        """Let a follower compute, and those that wait for the same leader wait for it instead."""

    async def find_request(self, tenant: str, request_id: str) -> Created | None:
        """Return the job stored under a request_id."""

    async def dispatch(self, slots: int | None, limit: int, limits_of: Callable[[str], Limits]) -> Sequence[str]:
        """Mark queued jobs as delivered and return their ids, best first.

        slots: at most so many, None: as many as the announced pools have free; limit: never more running or delivered
        at once, of all tenants; limits_of: the same per tenant.
        """
