"""Every exception of klinecast, none of which knows a gRPC status.

KlinecastError
├── InvalidArgument       a field is missing, malformed or out of bounds; `violations` names each
├── NotFound              absent, expired or another tenant's: they look the same
├── AlreadyExists         request_id was used for another request
├── FailedPrecondition    right request, wrong moment: no klines in the range, a gap under FAIL
├── ResourceExhausted     over a limit; `retry_after_s` says when to try again
├── Aborted               the series changed while it was read, or a newer attempt won
├── PermissionDenied
├── Unauthenticated
├── Unavailable           a service or the database is away, or stopping; try again
├── DeadlineExceeded
└── Internal              an unexpected fault; the message holds a correlation id only
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "Aborted",
    "AlreadyExists",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "KlinecastError",
    "NotFound",
    "PermissionDenied",
    "QuotaViolation",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request."""

    field: str
    """Path of the field, for example config.params.fast."""
    description: str
    """What is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One limit that was reached."""

    subject: str
    """Whose limit, for example tenant:default."""
    description: str
    """Which limit and its number."""


class KlinecastError(Exception):
    """Base of all errors of klinecast; `reason` is an ErrorReason without its prefix."""

    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[FieldViolation] = (),
        quota: Iterable[QuotaViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.violations = tuple(violations)
        self.quota = tuple(quota)
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        lines = [self.message, *(f"{one.field}: {one.description}" for one in self.violations)]
        return "\n  ".join(lines)


class InvalidArgument(KlinecastError):  # noqa: N818 - named after its status, as callers know it
    """A field is missing, malformed or out of bounds."""

    default_reason = "INVALID_FIELD"

    @classmethod
    def of(cls, *violations: FieldViolation, reason: str | None = None) -> InvalidArgument:
        """Build one from its violations; the message names the first field and how many more there are."""
        first, more = violations[0], len(violations) - 1
        text = f"{first.field}: {first.description}" + (f" (and {more} more)" if more else "")
        return cls(text, reason=reason, violations=violations)

    def __str__(self) -> str:
        return "\n  ".join(f"{one.field}: {one.description}" for one in self.violations) or self.message


class NotFound(KlinecastError):  # noqa: N818
    """Absent, expired or another tenant's."""


class AlreadyExists(KlinecastError):  # noqa: N818
    """The request_id was used for another request."""

    default_reason = "REQUEST_ID_REUSED"


class FailedPrecondition(KlinecastError):  # noqa: N818
    """The request is right, the state of the data is not."""


class ResourceExhausted(KlinecastError):  # noqa: N818
    """A limit was reached."""

    default_reason = "LIMIT_EXCEEDED"


class Aborted(KlinecastError):  # noqa: N818
    """What was being read or written changed meanwhile; start again."""

    default_reason = "SERIES_CHANGED"


class PermissionDenied(KlinecastError):  # noqa: N818
    """The credential does not allow it."""

    default_reason = "ROLE_REQUIRED"


class Unauthenticated(KlinecastError):  # noqa: N818
    """No credential, or one that is not valid."""

    default_reason = "UNAUTHENTICATED"


class Unavailable(KlinecastError):  # noqa: N818
    """A service or the database is away; try again."""

    default_reason = "SERVICE_UNAVAILABLE"


class DeadlineExceeded(KlinecastError):  # noqa: N818
    """The deadline of the call passed."""

    default_reason = "DEADLINE_EXCEEDED"


class Internal(KlinecastError):  # noqa: N818
    """An unexpected fault."""
