"""G1-G4, G10, G12, G13 in short; `make test-abuse` has the long forms. G5-G9 stand in tests/integration/data.

G5, G8 in test_data_ingest.py, G6 in test_data_stream.py and test_data_range.py, G7 in test_data_scale.py.
"""

from __future__ import annotations

import base64

import pytest

from klinecast.api.backtest.v1 import backtest_service_pb2
from klinecast.api.data.v1 import data_service_pb2
from klinecast.api.results.v1 import results_service_pb2
from services.results.servicer_messages import list_name
from services.runtime import paging
from tests.faults.abuse import inputs
from tests.suite import Suite

FUZZ_S = 4.0
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
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
    f'["1_0","{ID}"]',
    f'["\u0661\u0660","{ID}"]',
    f'["0001-01-01T00:00:00+23:59","{ID}"]',
)
BY_TIME = results_service_pb2.ListResultsRequest()
BY_STATISTIC = results_service_pb2.ListResultsRequest(order_by="sharpe")
LISTS = {
    "ListSeries": ("data", data_service_pb2.ListSeriesRequest(), "series", '["A","SPOT","A","1h"]'),
    "ListIndicatorSeries": (
        "data", data_service_pb2.ListIndicatorSeriesRequest(), "indicators", '["A","SPOT","A","b"]'
    ),
    "ListBacktests": ("backtest", backtest_service_pb2.ListBacktestsRequest(), "backtests", f'["{ID}"]'),
    "ListResults": ("results", BY_TIME, list_name(BY_TIME), f'["2024-01-01T00:00:00+00:00","{ID}"]'),
    "ListResults by statistic": ("results", BY_STATISTIC, list_name(BY_STATISTIC), f'["1.5","{ID}"]'),
    "ListRetentionAudit": (
        "results", results_service_pb2.ListRetentionAuditRequest(), "audit/0", f'["2024-01-01T00:00:00+00:00","{ID}"]'
    ),
}  # fmt: skip
"""List -> service, request, name, and a cursor that is one."""


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


def forged(suite: Suite, name: str, cursor: str) -> str:
    """Return the status of a list that is asked with a token of this cursor: its digest is no secret."""
    service, request, list_name, _ = LISTS[name]
    body = cursor.encode()
    digest = paging._digest(dict(inputs.STRANGER)["klinecast-tenant"], list_name, body)
    asked = type(request)()
    asked.CopyFrom(request)
    asked.page_token = base64.urlsafe_b64encode(digest + body).decode()
    method = inputs.SERVICES[service].methods_by_name[name.split()[0]]
    return inputs.send(suite, service, method, asked.SerializeToString()).status


@pytest.mark.parametrize("name", LISTS)
def test_a_page_token_forged_with_its_digest_is_refused_for_what_it_holds(suite: Suite, name: str) -> None:
    assert forged(suite, name, LISTS[name][3]) == inputs.OK  # or the others would be refused for their digest
    for cursor in CURSORS:
        assert forged(suite, name, cursor) == inputs.INVALID_ARGUMENT, cursor[:50]


@pytest.mark.parametrize("name", ["ListResults", "ListRetentionAudit"])
def test_a_forged_time_of_any_offset_is_one_the_database_takes(suite: Suite, name: str) -> None:
    assert forged(suite, name, f'["2024-01-01T00:00:00+23:59","{ID}"]') == inputs.OK
