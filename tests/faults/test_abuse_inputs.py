"""G1-G4, G10, G12, G13 in short; `make test-abuse` has the long forms. G5-G9 stand in tests/integration/data.

G5, G8 in test_data_ingest.py, G6 in test_data_stream.py and test_data_range.py, G7 in test_data_scale.py.
"""

from __future__ import annotations

import json

import pytest

from klinecast.api.backtest.v1 import backtest_service_pb2
from klinecast.api.data.v1 import data_service_pb2
from klinecast.api.results.v1 import results_service_pb2
from services.runtime import paging
from tests.faults.abuse import inputs
from tests.suite import Suite

FUZZ_S = 4.0
CURSORS = (
    "[]",
    "[null]",
    '["x"]',
    "{}",
    "7",
    "[[[]]]",
    '["\\u0000","SPOT","A","1h"]',
    "[9e99]",
    "[" * 5_000,
    "not JSON",
)


def test_bombs_are_refused_before_they_go_off(suite: Suite) -> None:
    for row in inputs.bombs(suite):
        assert row.held, row


def test_garbage_is_answered_without_internals(suite: Suite) -> None:
    row = inputs.garbage(suite)
    assert row.held, row


def test_what_is_dear_to_look_at_is_refused_cheaply(suite: Suite) -> None:
    for row in inputs.heavy(suite):
        assert row.held, row


def test_random_requests_find_no_fault(suite: Suite, seed: int) -> None:
    row = inputs.Fuzz(suite, seed).run(FUZZ_S)
    assert row.held, row


@pytest.mark.parametrize("cursor", CURSORS, ids=range(len(CURSORS)))
def test_a_page_token_forged_with_its_digest_is_refused(suite: Suite, cursor: str) -> None:
    """The digest is no secret: whoever knows the code can make one."""
    lists = {
        ("data", "ListSeries"): (data_service_pb2.ListSeriesRequest, "series"),
        ("backtest", "ListBacktests"): (backtest_service_pb2.ListBacktestsRequest, "backtests"),
        ("results", "ListRetentionAudit"): (results_service_pb2.ListRetentionAuditRequest, "audit/0"),
    }
    for (service, name), (request, list_name) in lists.items():
        body = cursor.encode()
        token = paging.base64.urlsafe_b64encode(paging._digest("default", list_name, body) + body).decode()
        method = inputs.SERVICES[service].methods_by_name[name]
        answer = inputs.send(suite, service, method, request(page_token=token).SerializeToString())
        assert answer.status == inputs.INVALID_ARGUMENT, (name, cursor[:50], answer)


def test_a_forged_cursor_is_not_refused_for_its_digest_alone() -> None:
    body = json.dumps(["a"]).encode()
    token = paging.base64.urlsafe_b64encode(paging._digest("t", "l", body) + body).decode()
    assert paging.read_page_token(token, "t", "l", list) == ["a"]
