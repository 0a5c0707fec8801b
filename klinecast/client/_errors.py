"""From a gRPC status to an exception of klinecast.errors: the only place of the SDK that reads statuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from klinecast import errors

_CLASSES: dict[grpc.StatusCode, type[errors.KlinecastError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    # Nobody here cancels a call whose end is still awaited: a server that stops did (grpc#41785), or something between.
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}


@contextmanager
def translated() -> Iterator[None]:
    """Raise what a call inside the block raises as an exception of klinecast."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error) from None


def error_from_rpc(error: grpc.RpcError) -> errors.KlinecastError:
    """Build the exception of a failed call, details included."""
    code: grpc.StatusCode = error.code()
    text: str = error.details() or code.name.lower().replace("_", " ")
    cls = _CLASSES.get(code, errors.Internal)
    reason, metadata = None, {}
    violations: list[errors.FieldViolation] = []
    quota: list[errors.QuotaViolation] = []
    retry_after_s = None
    for detail in _details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo):
            reason, metadata = detail.reason, dict(detail.metadata)
        elif isinstance(detail, error_details_pb2.BadRequest):
            violations = [errors.FieldViolation(one.field, one.description) for one in detail.field_violations]
        elif isinstance(detail, error_details_pb2.QuotaFailure):
            quota = [errors.QuotaViolation(one.subject, one.description) for one in detail.violations]
        elif isinstance(detail, error_details_pb2.RetryInfo):
            retry_after_s = detail.retry_delay.ToTimedelta().total_seconds()
    return cls(text, reason=reason, violations=violations, quota=quota, metadata=metadata, retry_after_s=retry_after_s)


_DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RetryInfo,
)


def _details(error: grpc.RpcError) -> Iterator[object]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details of somebody else's making
        return
    for packed in status.details if status is not None else ():
        for cls in _DETAILS:
            if packed.Is(cls.DESCRIPTOR):
                detail = cls()
                packed.Unpack(detail)
                yield detail
