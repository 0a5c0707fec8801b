"""Retention as the domain sees it: a tenant's policy, what it keeps, what goes and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import IntEnum
from typing import Protocol, TypeVar

from klinecast.convert.violations import Violations

LONGEST_TTL_S = 10 * 366 * 86_400.0

_Number = TypeVar("_Number", int, float)


class Reason(IntEnum):
    """Why a result went; numbers of RetentionReason, which are stored."""

    EXPIRED = 1
    MAX_RESULTS = 2
    MAX_BYTES = 3
    DELETED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long results are kept, and how many; None is what nobody set."""

    default_ttl_s: float | None = None
    min_ttl_s: float | None = None
    max_ttl_s: float | None = None
    max_results: int | None = None
    max_bytes: int | None = None

    def over(self, base: Policy) -> Policy:
        """Return this policy with what is not set taken from another, whose bounds it keeps even if they came later."""
        upper = _least(self.max_ttl_s, base.max_ttl_s)
        lower = _least(_greatest(self.min_ttl_s, base.min_ttl_s), upper)
        default = self._or(base).default_ttl_s
        return Policy(
            default_ttl_s=None if default is None else _least(_greatest(default, lower), upper),
            min_ttl_s=lower,
            max_ttl_s=upper,
            max_results=_least(self.max_results, base.max_results),
            max_bytes=_least(self.max_bytes, base.max_bytes),
        )

    def _or(self, base: Policy) -> Policy:
        mine = {one.name: getattr(self, one.name) for one in fields(self)}
        return Policy(**{name: getattr(base, name) if value is None else value for name, value in mine.items()})

    @property
    def limited(self) -> bool:
        """Whether results may go before they expire."""
        return self.max_results is not None or self.max_bytes is not None

    def check(self, service: Policy, found: Violations) -> None:
        """Note what of a tenant's policy is malformed, or beyond what the service allows."""
        effective = self._or(service)
        shortest, longest = service.min_ttl_s or 1.0, service.max_ttl_s or LONGEST_TTL_S
        for name in ("min_ttl", "max_ttl", "default_ttl"):
            value = getattr(self, f"{name}_s")
            if value is not None:
                bounds = f"must be {shortest:g} s .. {longest:g} s, the service's bounds"
                found.check(shortest <= value <= longest, f"policy.{name}", bounds)
        lower, upper = effective.min_ttl_s or shortest, effective.max_ttl_s or longest
        if found.check(lower <= upper, "policy.min_ttl", "must not be above max_ttl"):
            default = effective.default_ttl_s
            within = default is None or lower <= default <= upper
            found.check(within, "policy.default_ttl", f"must be {lower:g} s .. {upper:g} s, the policy's bounds")
        for name in ("max_results", "max_bytes"):
            value, most = getattr(self, name), getattr(service, name)
            text = "must be 1 or more" if most is None else f"must be 1..{most}, the service's limit"
            found.check(value is None or 1 <= value <= (value if most is None else most), f"policy.{name}", text)

    def check_ttl(self, ttl_s: float, field_name: str, found: Violations) -> None:
        """Note that a TTL is out of the policy's bounds."""
        lower, upper = self.min_ttl_s or 1.0, self.max_ttl_s or LONGEST_TTL_S
        found.check(lower <= ttl_s <= upper, field_name, f"must be {lower:g} s .. {upper:g} s, the policy's bounds")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant keeps."""

    results: int
    bytes: int
    pinned_results: int
    pinned_bytes: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What went, or would, by reason: results and bytes."""

    by_reason: Mapping[Reason, tuple[int, int]] = field(default_factory=dict)

    @property
    def results(self) -> int:
        """How many in all."""
        return sum(count for count, _ in self.by_reason.values())


@dataclass(frozen=True, slots=True)
class Preview:
    """What would go under a policy."""

    taken: Taken
    first_ids: Sequence[str]
    usage: Usage
    """Before; what has expired does not count."""
    read_time: datetime

    @property
    def kept(self) -> Usage:
        """What would be left."""
        live = [lost for reason, lost in self.taken.by_reason.items() if reason is not Reason.EXPIRED]
        results, size = sum(count for count, _ in live), sum(size for _, size in live)
        return replace(self.usage, results=self.usage.results - results, bytes=self.usage.bytes - size)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A result that went."""

    result_id: str
    strategy: str
    reason: Reason
    stored_bytes: int
    create_time: datetime
    delete_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditListing:
    """Which records to list, newest first."""

    reason: Reason | None
    page_size: int
    after: tuple[datetime, str] | None


class RetentionStore(Protocol):
    """What retention needs from the database."""

    async def policy(self, tenant: str) -> Policy:
        """Return what a tenant set."""

    async def set_policy(self, tenant: str, policy: Policy) -> None:
        """Replace what a tenant set."""

    async def usage(self, tenant: str) -> Usage:
        """Return what a tenant keeps."""

    async def preview(self, tenant: str, policy: Policy) -> Preview:
        """Return what would go under a policy in effect."""

    async def list_audit(self, tenant: str, listing: AuditListing) -> Sequence[AuditRecord]:
        """Return a page of what went, newest first."""


def _least(*values: _Number | None) -> _Number | None:
    return min((one for one in values if one is not None), default=None)


def _greatest(*values: _Number | None) -> _Number | None:
    return max((one for one in values if one is not None), default=None)
