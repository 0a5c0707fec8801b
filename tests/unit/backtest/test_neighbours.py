"""What callers learn of the errors of the services that are asked for them."""

import pytest

from klinecast.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    KlinecastError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.backtest.neighbours import asking

PLACE = "ipv4:10.0.0.1:50051 /etc/klinecast/token"


@pytest.mark.parametrize(
    "error",
    [
        Unavailable(PLACE),
        DeadlineExceeded(PLACE),
        Unauthenticated(PLACE),
        PermissionDenied(PLACE),
        InvalidArgument.of(FieldViolation("security.ca_file", f"cannot read {PLACE}")),
    ],
)
def test_our_own_trouble_with_a_service_is_that_it_is_away(error: KlinecastError) -> None:
    with pytest.raises(Unavailable, match=r"^the data service is unavailable$"), asking("data"):
        raise error


def test_a_fault_of_a_service_is_told_without_its_text() -> None:
    with pytest.raises(Internal, match=r"^an unexpected fault of the data service$"), asking("data"):
        raise Internal(PLACE)


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no series"),
        FailedPrecondition("no klines"),
        ResourceExhausted("too many calls"),
        InvalidArgument.of(FieldViolation("series.symbol", "is too long")),
    ],
)
def test_what_a_service_says_of_the_request_is_passed_on(error: KlinecastError) -> None:
    with pytest.raises(type(error)) as raised, asking("data"):
        raise error
    assert raised.value is error
