"""Workers and the parent that looks after them, each without the other or without what it needs."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from services.backtest.executors.child import Child
from services.backtest.executors.keeper import Keeper
from services.backtest.executors.pool import Bell, WorkerPool
from services.backtest.worker.protocol import Cancel, Done, Dropped, FromWorker, Ready, Run
from services.backtest.worker.store import WorkerStore
from services.runtime.database import libpq_url
from tests.factories import make_config
from tests.suite import Suite

PUT_DELIVERED = """
INSERT INTO backtest.backtests (tenant_id, backtest_id, request_hash, config, strategy, priority, deadline_s,
                                traceparent, state, delivered_until, create_time, last_sequence)
VALUES ('default', %s, '', %s, 'slow', 4, 3600, '', 'QUEUED', '2100-01-01', now(), 0)
"""


class Listener:
    """Hears of the first worker that is ready."""

    def __init__(self) -> None:
        self.freed = threading.Event()

    def event_stored(self, backtest_id: str) -> None:
        """Nobody watches."""

    def finished(self, finished: object) -> None:
        """Nobody counts."""

    def slot_freed(self) -> None:
        """Note it."""
        self.freed.set()


@pytest.fixture
def child(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """Return a worker of the session's deployment whose parent is the test."""
    monkeypatch.setenv("KLINECAST_DATABASE__URL", suite.database_url)
    for name in ("data", "results"):
        monkeypatch.setenv(f"KLINECAST_{name.upper()}_TARGET", suite.target(name))
    child = Child(str(uuid.uuid4()))
    assert child.pipe.recv() == Ready()
    yield child
    child.kill()
    child.bury()
    child.close()


def put_delivered(url: str, config: bytes = b"") -> str:
    backtest_id = str(uuid.uuid4())
    with psycopg.connect(libpq_url(url)) as connection:
        connection.execute(PUT_DELIVERED, (backtest_id, config))
    return backtest_id


def last_word(child: Child) -> FromWorker:
    while not isinstance(message := child.pipe.recv(), Done | Dropped):
        continue
    return message


def test_a_worker_runs_what_it_once_was_told_to_give_up(child: Child, suite: Suite) -> None:
    with suite.client() as client, psycopg.connect(libpq_url(suite.database_url)) as connection:
        made = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 0.0})).backtest_id
        query = "SELECT config FROM backtest.backtests WHERE backtest_id = %s"
        [config] = connection.execute(query, (made,)).fetchone() or ()
    backtest_id = put_delivered(suite.database_url, config)
    child.pipe.send(Cancel(backtest_id))
    child.pipe.send(Run(backtest_id))
    last = last_word(child)
    assert isinstance(last, Done)
    assert (last.backtest_id, last.state) == (backtest_id, "SUCCEEDED")


def test_what_a_worker_gives_up_unasked_is_queued_at_once(database_url: str) -> None:
    store = WorkerStore(database_url, str(uuid.uuid4()))
    claim = store.claim(put_delivered(database_url))
    assert claim is not None
    assert not store.cancelled(claim)
    store.close()
    with psycopg.connect(libpq_url(database_url)) as connection:
        query = "SELECT state, attempts->0->>'how' FROM backtest.backtests"
        assert connection.execute(query).fetchone() == ("QUEUED", "its worker gave it up")


def test_progress_that_is_not_finite_is_left_out(database_url: str) -> None:
    store = WorkerStore(database_url, str(uuid.uuid4()))
    claim = store.claim(put_delivered(database_url))
    assert claim is not None
    assert store.progress(claim, {"equity": float("inf"), "drawdown": float("nan"), "klines_done": 3}) is False
    store.close()
    with psycopg.connect(libpq_url(database_url)) as connection:
        assert connection.execute("SELECT progress FROM backtest.backtests").fetchone() == ({"klines_done": 3},)


def test_a_keeper_waits_on_any_descriptor(database_url: str) -> None:
    bell, keeper = Bell(), Keeper(database_url)
    high = fcntl.fcntl(bell.fd, fcntl.F_DUPFD_CLOEXEC, 1_500)  # beyond what select.select takes
    bell.ring()
    started = time.monotonic()
    keeper.wait(high, 30.0)
    keeper.close()
    assert time.monotonic() - started < 20


def test_workers_start_once_there_is_room_for_them(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__URL", database_url)
    listener = Listener()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        pool = WorkerPool(database_url, listener, size=1)
        pool.start()
        assert not listener.freed.wait(0.1)
    assert listener.freed.wait(60)
    pool.stop(0.0)
    assert not pool.pids()


LOST = """
import threading
from services.backtest.executors.pool import WorkerPool
pool = WorkerPool("postgresql://nowhere.invalid/none", None, size=1)  # a listener that cannot be called
pool.start()
threading.Event().wait(60)
"""


def test_a_pool_whose_thread_fails_takes_its_process_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLINECAST_DATABASE__URL", "postgresql://nowhere.invalid/none")
    ended = subprocess.run([sys.executable, "-c", LOST], timeout=60, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "pool_failed" in ended.stdout + ended.stderr
