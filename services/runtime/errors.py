"""The one table from exceptions to gRPC statuses, and the bytes of google.rpc.Status. Knows no service."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import psycopg
import sqlalchemy.exc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from klinecast import errors

DOMAIN = "klinecast"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_CHARS = 2_000
MAX_VIOLATIONS = 100

_CODES: dict[type[errors.KlinecastError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_DATABASE_AWAY = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,  # paused for so long that the server gave the transaction up
)


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """What a caller is told."""

    code: grpc.StatusCode
    message: str
    details: bytes
    """A serialized google.rpc.Status."""
    reason: str

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Where clients look for the details."""
        return ((DETAILS_KEY, self.details),)


def code_of(error: errors.KlinecastError) -> grpc.StatusCode:
    """Return the status code of an error by its class; INTERNAL for one the table does not list."""
    return next((code for cls, code in _CODES.items() if isinstance(error, cls)), grpc.StatusCode.INTERNAL)


def is_unexpected(error: BaseException) -> bool:
    """Tell a fault of ours, which is logged with its traceback, from an answer."""
    return code_of(as_klinecast_error(error, "")) is grpc.StatusCode.INTERNAL


def translate(error: BaseException, correlation_id: str) -> RpcStatus:
    """Return the status of any exception; a fault of ours is told by its correlation id only."""
    known = as_klinecast_error(error, correlation_id)
    return build_status(code_of(known), known)


def as_klinecast_error(error: BaseException, correlation_id: str) -> errors.KlinecastError:
    """Return `error` itself when it is meant for callers, else one that gives nothing of its text away."""
    if isinstance(error, errors.KlinecastError) and type(error) is not errors.KlinecastError:
        return _internal(correlation_id) if isinstance(error, errors.Internal) else error
    if is_database_away(error):
        return database_unavailable()
    return _internal(correlation_id)


def is_database_away(error: BaseException) -> bool:
    """Tell a database that cannot be reached or does not answer from a statement that is wrong."""
    return isinstance(error, _DATABASE_AWAY) or isinstance(getattr(error, "orig", None), _DATABASE_AWAY)


def database_unavailable() -> errors.Unavailable:
    """Return the error of a database that is away."""
    return errors.Unavailable("the database is unavailable", reason="DATABASE_UNAVAILABLE", retry_after_s=1.0)


def shutting_down() -> errors.Unavailable:
    """Return the error that ends a stream when the service stops; the caller resumes elsewhere."""
    return errors.Unavailable("the service is stopping", reason="SHUTTING_DOWN", retry_after_s=0.2)


def build_status(code: grpc.StatusCode, error: errors.KlinecastError) -> RpcStatus:
    """Pack an error into a status of this code with ErrorInfo and what else it carries."""
    message = error.message[:MAX_MESSAGE_CHARS]
    status = status_pb2.Status(code=code.value[0], message=message, details=[_packed(one) for one in _details(error)])
    return RpcStatus(code=code, message=message, details=status.SerializeToString(), reason=error.reason)


def _internal(correlation_id: str) -> errors.Internal:
    return errors.Internal(
        f"internal error, correlation id {correlation_id}", metadata={"correlation_id": correlation_id}
    )


def _details(error: errors.KlinecastError) -> list[Message]:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata),
    ]
    if error.violations:
        details.append(_bad_request(error.violations))
    if error.quota:
        details.append(_quota_failure(error.quota))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(max(0, round(error.retry_after_s * 1000)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _bad_request(violations: tuple[errors.FieldViolation, ...]) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation
    fields = [
        violation(field=one.field[:200], description=one.description[: MAX_MESSAGE_CHARS // 4])
        for one in violations[:MAX_VIOLATIONS]
    ]
    return error_details_pb2.BadRequest(field_violations=fields)


def _quota_failure(quota: tuple[errors.QuotaViolation, ...]) -> error_details_pb2.QuotaFailure:
    violation = error_details_pb2.QuotaFailure.Violation
    return error_details_pb2.QuotaFailure(
        violations=[violation(subject=one.subject, description=one.description) for one in quota]
    )


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
