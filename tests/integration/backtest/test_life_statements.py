"""Each step of the model does to a row what its statement does in Postgres, from every state of the row."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable

import psycopg
import pytest

from services.backtest import queue_statements, statements
from services.backtest.jobs import LEASE_S, MAX_ATTEMPTS
from services.runtime.database import libpq_url
from tests.reference.life import MOST_DEATHS, Row

WORKER = str(uuid.uuid4())
ID = str(uuid.uuid4())
NOTHING: dict[str, object] = dict.fromkeys(("reuse_key", "continue_key", "reads", "continuation"))
LOOSE = NOTHING | {
    "progress": "{}",
    "timings_s": "{}",
    "failure": "{}",
    "result_id": ID,
    "how": "",
    "worker_id": WORKER,
}

ROWS = [
    Row(state, fence, deaths, delivered, cancel_asked)
    for state, fence, deaths, delivered, cancel_asked in itertools.product(
        ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"),
        (0, 3),
        (0, MOST_DEATHS - 1),
        (False, True),
        (False, True),
    )
    if (fence or state != "RUNNING") and (state == "QUEUED" or not delivered)
]
STEPS: dict[str, tuple[str, Callable[[Row], Row | None]]] = {
    "deliver": (queue_statements.DELIVER, lambda row: row.deliver()),
    "take back": (queue_statements.EXPIRE_DELIVERIES, lambda row: row.take_back()),
    "claim": (statements.CLAIM, lambda row: row.claim()),
    "progress": (statements.PROGRESS, lambda row: row.progress(3)),
    "progress, stale": (statements.PROGRESS, lambda row: row.progress(2)),
    "succeed": (statements.SUCCEED, lambda row: row.succeed(3)),
    "succeed, stale": (statements.SUCCEED, lambda row: row.succeed(2)),
    "fail": (statements.FAIL, lambda row: row.fail(3)),
    "fail, stale": (statements.FAIL, lambda row: row.fail(2)),
    "give up": (statements.FINISH_CANCELLED, lambda row: row.finish_cancelled(3)),
    "give up, stale": (statements.FINISH_CANCELLED, lambda row: row.finish_cancelled(2)),
    "hand back": (statements.HAND_BACK, lambda row: row.hand_back(3)),
    "hand back, another's": (statements.HAND_BACK, lambda row: None),
    "release": (statements.RELEASE, lambda row: row.die(row.fence)),
    "release, another's": (statements.RELEASE, lambda row: None),
    "rescue": (statements.RESCUE, lambda row: row.die()),
    "cancel queued": (statements.CANCEL_QUEUED, lambda row: row.cancel() if row.state == "QUEUED" else None),
    "cancel running": (statements.ASK_CANCEL, lambda row: row.cancel() if row.state == "RUNNING" else None),
}


@pytest.fixture(scope="module")
def connection(postgres_server, template_database):
    from tests import postgres

    with (
        postgres.copy_database(postgres_server, template_database) as url,
        psycopg.connect(libpq_url(url)) as connection,
    ):
        connection.execute(
            "SELECT pg_sleep_until(pg_postmaster_start_time() + make_interval(secs => %s))", (LEASE_S + 0.1,)
        )  # until then leases may have lapsed with the server
        yield connection


def put(connection: psycopg.Connection, row: Row) -> None:
    deaths = row.deaths + MAX_ATTEMPTS - MOST_DEATHS if row.deaths else 0
    connection.rollback()
    connection.execute(
        """INSERT INTO backtest.backtests (tenant_id, backtest_id, request_hash, config, strategy, priority, deadline_s,
             traceparent, state, fence, attempt, attempts, delivered_until, lease_until, worker_id, cancel_requested,
             create_time, last_sequence)
           VALUES ('a', %s, '', '', 'dual_ma', 4, 3600, '', %s, %s, %s, %s, %s, %s, %s, %s, now(), 0)""",
        (
            ID,
            row.state,
            row.fence,
            row.fence,
            json.dumps([{"attempt": 1}] * deaths),
            "2020-01-01" if row.delivered else None,
            "2020-01-01" if row.state == "RUNNING" else None,
            WORKER if row.fence else None,
            row.cancel_asked,
        ),
    )


def get(connection: psycopg.Connection) -> tuple[Row, int]:
    query = """SELECT state, fence, jsonb_array_length(attempts), delivered_until, cancel_requested, last_sequence,
                 EXISTS (SELECT FROM backtest.unwanted_results), (SELECT count(*) FROM backtest.events)
               FROM backtest.backtests"""
    found = connection.execute(query).fetchone()
    assert found is not None
    state, fence, deaths, delivered, cancel_asked, sequence, outbox, events = found
    assert sequence == events  # numbers are contiguous
    deaths -= MAX_ATTEMPTS - MOST_DEATHS if deaths >= MAX_ATTEMPTS - MOST_DEATHS else 0
    return Row(state, fence, deaths, delivered is not None, cancel_asked, outbox), events


@pytest.mark.parametrize("step", STEPS)
def test_the_model_says_what_postgres_does(connection: psycopg.Connection, step: str) -> None:
    statement, expected = STEPS[step]
    moved = 0
    for row in ROWS:
        put(connection, row)
        wanted = expected(row)
        parameters = LOOSE | {
            "tenant": "a",
            "backtest_id": ID,
            "fence": 2 if "stale" in step else 3,
            "ids": [ID],
            **{name: [] for name in ("tenants", "priorities", "started", "finished")},
        }
        if "another's" in step:
            parameters["worker_id"] = str(uuid.uuid4())
        connection.execute(statement, parameters)
        found, events = get(connection)
        assert found == (wanted or row), (step, row)
        assert events == (wanted is not None and step not in ("deliver", "take back", "cancel running")), (step, row)
        moved += wanted is not None
    assert bool(moved) == ("stale" not in step and "another's" not in step)
