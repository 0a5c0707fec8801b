"""The table from exceptions to statuses."""

import grpc
import psycopg
import pytest
import sqlalchemy.exc
from google.rpc import error_details_pb2, status_pb2

from klinecast import errors
from klinecast.api.error.v1.error_reason_pb2 import ErrorReason
from services.runtime.errors import RpcStatus, shutting_down, translate

SECRET = "postgresql://klinecast:hunter2@db/klinecast"


def details_of(status: RpcStatus) -> status_pb2.Status:
    return status_pb2.Status.FromString(status.details)


def error_info(status: RpcStatus) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert details_of(status).details[0].Unpack(info)
    return info


def test_every_class_of_errors_has_its_own_code() -> None:
    classes = errors.KlinecastError.__subclasses__()
    codes = {translate(cls("text"), "id").code for cls in classes}
    assert len(codes) == len(classes)


def test_a_subclass_keeps_the_code_of_its_parent() -> None:
    class SeriesMissing(errors.NotFound):
        pass

    assert translate(SeriesMissing("no", reason="SERIES_NOT_FOUND"), "id").code is grpc.StatusCode.NOT_FOUND


def test_violations_are_all_named() -> None:
    violations = [errors.FieldViolation("start_time", "is after end_time"), errors.FieldViolation("symbol", "is empty")]
    status = translate(errors.InvalidArgument.of(*violations), "id")
    bad = error_details_pb2.BadRequest()
    assert details_of(status).details[1].Unpack(bad)
    assert [one.field for one in bad.field_violations] == ["start_time", "symbol"]
    assert (error_info(status).reason, error_info(status).domain) == ("INVALID_FIELD", "klinecast")


def test_a_limit_says_whose_and_when_to_try_again() -> None:
    quota = [errors.QuotaViolation("tenant:default", "at most 4 backtests run")]
    details = details_of(translate(errors.ResourceExhausted("busy", quota=quota, retry_after_s=1.5), "id")).details
    failure, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert details[1].Unpack(failure)
    assert details[2].Unpack(retry)
    assert failure.violations[0].subject == "tenant:default"
    assert retry.retry_delay.ToMilliseconds() == 1500


@pytest.mark.parametrize(
    "error",
    [
        sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception(SECRET)),
        sqlalchemy.exc.InterfaceError("SELECT 1", {}, Exception(SECRET)),
        sqlalchemy.exc.TimeoutError(SECRET),
        psycopg.OperationalError(SECRET),
    ],
)
def test_a_database_that_is_away_is_unavailable_and_tells_nothing(error: Exception) -> None:
    status = translate(error, "id")
    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert b"hunter2" not in status.details
    assert b"SELECT" not in status.details


@pytest.mark.parametrize("error", [KeyError(SECRET), errors.Internal(SECRET), errors.KlinecastError(SECRET)])
def test_a_fault_is_told_by_its_correlation_id_only(error: Exception) -> None:
    status = translate(error, "c0ffee")
    assert status.code is grpc.StatusCode.INTERNAL
    assert status.message == "internal error, correlation id c0ffee"
    assert b"hunter2" not in status.details


def test_the_end_of_a_stream_at_shutdown_is_resumable() -> None:
    assert translate(shutting_down(), "id").code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("error", [shutting_down(), psycopg.OperationalError(), KeyError(), errors.AlreadyExists("x")])
def test_reasons_are_in_the_contract(error: Exception) -> None:
    assert f"ERROR_REASON_{translate(error, 'id').reason}" in ErrorReason.DESCRIPTOR.values_by_name
