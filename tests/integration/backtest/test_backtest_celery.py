"""Backtests on Celery: the broker only carries ids, the claimed row decides; whatever dies, each has one result."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from klinecast.client import Client
from services.backtest.executors.broker import QUEUE, TASK, make_celery
from tests.broker import Broker
from tests.factories import make_config
from tests.suite import Suite


def run_all(client: Client, ids: list[str]) -> list[list]:
    with ThreadPoolExecutor(len(ids)) as pool:
        return list(pool.map(lambda one: list(client.watch_backtest(one)), ids))


def results_of(url: str) -> tuple[int, int]:
    with psycopg.connect(url) as connection:
        query = "SELECT count(*), count(DISTINCT result_id) FROM results.results"
        return connection.execute(query).fetchone()  # type: ignore[return-value]


def attempts_of(url: str) -> int:
    with psycopg.connect(url) as connection:
        [attempts] = connection.execute("SELECT coalesce(sum(attempt), 0) FROM backtest.backtests").fetchone() or (0,)
    return int(attempts)


def last_start(url: str) -> float:
    """Return when an attempt began last, by the database's clock: it is this machine's."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT extract(epoch FROM max(start_time)) FROM backtest.backtests").fetchone()
    assert found is not None
    return float(found[0])


def wait_running(client: Client, backtest_id: str) -> None:
    next(event for event in client.watch_backtest(backtest_id) if event.state == "RUNNING")


def test_backtests_run_on_workers_elsewhere(celery_suite: tuple[Suite, Broker]) -> None:
    suite, _ = celery_suite
    with suite.client() as client:
        config = make_config(client)
        stories = run_all(client, [client.create_backtest(config).backtest_id for _ in range(20)])
        results = {client.get_result(str(story[-1].result_id)).result_id for story in stories}
    assert [story[-1].state for story in stories] == ["SUCCEEDED"] * 20
    assert len(results) == 20
    assert not suite.process("backtest").children()  # none of them ran beside the service


def test_a_killed_pool_child_loses_nothing(own_celery_suite: Suite, database_url: str) -> None:
    with own_celery_suite.client() as client:
        config = make_config(client, strategy="slow", params={"seconds": 1.0})
        ids = [client.create_backtest(config).backtest_id for _ in range(4)]
        wait_running(client, ids[0])
        for child in own_celery_suite.workers[0].process.children():
            child.send_signal(signal.SIGKILL)
        stories = run_all(client, ids)
    assert [story[-1].state for story in stories] == ["SUCCEEDED"] * 4
    assert max(story[-1].attempt for story in stories) == 2
    assert results_of(database_url) == (4, 4)


def test_a_killed_worker_loses_nothing(own_celery_suite: Suite, database_url: str) -> None:
    with own_celery_suite.client() as client:
        config = make_config(client, strategy="slow", params={"seconds": 2.0})
        ids = [client.create_backtest(config).backtest_id for _ in range(2)]
        wait_running(client, ids[0])
        own_celery_suite.add_worker()
        own_celery_suite.workers[0].kill()
        killed = time.time()
        stories = run_all(client, ids)
    assert [story[-1].state for story in stories] == ["SUCCEEDED"] * 2
    assert max(story[-1].attempt for story in stories) == 2
    assert last_start(database_url) - killed < 10
    assert results_of(database_url) == (2, 2)


def test_a_killed_broker_loses_nothing(own_celery_suite: Suite, broker: Broker, database_url: str) -> None:
    with own_celery_suite.client() as client:
        config = make_config(client, strategy="slow", params={"seconds": 0.5})
        ids = [client.create_backtest(config).backtest_id for _ in range(6)]
        wait_running(client, ids[0])
        broker.kill()
        ids += [client.create_backtest(config).backtest_id for _ in range(6)]  # accepted while it is away
        broker.start()
        stories = run_all(client, ids)
    assert [story[-1].state for story in stories] == ["SUCCEEDED"] * 12
    assert results_of(database_url) == (12, 12)


@pytest.mark.parametrize("body", [("no-id",), ("00000000-0000-7000-8000-000000000000",), ({"a": 1},), ()])
def test_forged_messages_run_nothing(celery_suite: tuple[Suite, Broker], body: tuple, tmp_path: Path) -> None:
    suite, broker = celery_suite
    ran = tmp_path / "ran"
    with suite.client(tenant="other") as other, contextlib.closing(make_celery(broker.url)) as app:
        theirs = list(other.run_backtest(make_config(other)))[-1].backtest_id
        told, attempts = other.get_backtest(theirs), attempts_of(suite.database_url)
        app.send_task(TASK, body)
        app.send_task("os.system", (f"touch {ran}",))
        app.send_task(TASK, (Touch(str(ran)),), serializer="pickle")
        app.send_task(TASK, (theirs,))
        with suite.client() as client:  # its message comes after those, to the one process that listens
            assert list(client.run_backtest(make_config(client)))[-1].state == "SUCCEEDED"
        assert attempts_of(suite.database_url) == attempts + 1
        assert other.get_backtest(theirs) == told
    assert not ran.exists()


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._path}",)


def test_a_cancel_reaches_a_worker_elsewhere(celery_suite: tuple[Suite, Broker]) -> None:
    suite, _ = celery_suite
    with suite.client() as client:
        backtest = client.create_backtest(make_config(client, strategy="hang"))
        wait_running(client, backtest.backtest_id)
        asked = time.monotonic()
        client.cancel_backtest(backtest.backtest_id)
        story = list(client.watch_backtest(backtest.backtest_id))
    assert story[-1].state == "CANCELLED"
    assert time.monotonic() - asked < 2


def test_a_stopping_worker_hands_back_what_it_cannot_finish(own_celery_suite: Suite) -> None:
    with own_celery_suite.client() as client:
        backtest = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 4.0}))
        wait_running(client, backtest.backtest_id)
        own_celery_suite.add_worker()
        assert own_celery_suite.workers[0].stop() == 0
        story = list(client.watch_backtest(backtest.backtest_id))
    assert story[-1].state == "SUCCEEDED"
    assert story[-1].attempt == 2


def test_a_long_backtest_leaves_nothing_to_deliver_again(celery_suite: tuple[Suite, Broker]) -> None:
    """A message is acknowledged when it arrives: whatever the broker's visibility timeout, it is not sent again."""
    suite, broker = celery_suite
    with suite.client() as client, contextlib.closing(broker.client()) as valkey:
        backtest = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 2.0}))
        wait_running(client, backtest.backtest_id)
        assert valkey.hlen("unacked") == valkey.zcard("unacked_index") == valkey.llen(QUEUE) == 0
        story = list(client.watch_backtest(backtest.backtest_id))
    assert (story[-1].state, story[-1].attempt) == ("SUCCEEDED", 1)


def test_a_message_that_comes_again_runs_nothing_twice(celery_suite: tuple[Suite, Broker]) -> None:
    suite, broker = celery_suite
    with suite.client() as client, contextlib.closing(make_celery(broker.url)) as app:
        backtest = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 1.0}))
        for _ in range(5):
            app.send_task(TASK, (backtest.backtest_id,))
        story = list(client.watch_backtest(backtest.backtest_id))
        app.send_task(TASK, (backtest.backtest_id,))
        assert list(client.run_backtest(make_config(client)))[-1].state == "SUCCEEDED"
        assert client.get_backtest(backtest.backtest_id).attempt == story[-1].attempt == 1
    assert [event.state for event in story].count("SUCCEEDED") == 1
