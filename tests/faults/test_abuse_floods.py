"""C11, C13, C14, H12 in short: what is refused, and that another tenant is served.

How long the other waits is printed only: a machine that runs tests does other things too. `make test-abuse` judges it,
and tests/integration/runtime/test_server_limits.py whose turn it is.

C2 and the end of a stalled reader stand in tests/integration/data/test_data_stalled.py, C20 in test_server_errors.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.faults.abuse.floods import Floods
from tests.suite import Suite


@pytest.fixture(scope="module")
def floods(suite: Suite) -> Iterator[Floods]:
    with suite.client(tenant="victim") as victim, suite.client(tenant="attacker") as attacker:
        yield Floods(suite, victim, attacker, seconds=1.5, floor_ms=math.inf)


def test_a_cancel_passes_more_watches_than_a_connection_has_streams(floods: Floods) -> None:
    row = floods.cancel_behind_watches(300)
    print(f"\n{row}")
    assert row.held, row


def test_a_flood_of_calls_is_refused_and_another_tenant_served(floods: Floods) -> None:
    row = floods.unary(1_000, same_method=True)
    print(f"\n{row}")
    assert row.held, row


def test_four_thousand_streams_a_second_opened_and_cancelled(floods: Floods) -> None:
    row = floods.open_and_cancel(4_000, 0.02)
    print(f"\n{row}")
    assert row.held, row


def test_watches_beyond_the_tenants_bound_are_refused(floods: Floods) -> None:
    row = floods.watches(2_500)
    print(f"\n{row}")
    assert row.held, row


def test_connections_that_never_speak_are_closed(floods: Floods) -> None:
    row = floods.mute(300)
    print(f"\n{row}")
    assert row.held, row
