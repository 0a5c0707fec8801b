"""Connections that went silent: each side lets go of the other, and goes on over a new connection, within 8 s."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest

from klinecast.client import Client
from klinecast.errors import KlinecastError, Unavailable
from services.local.postgres import PostgresServer
from services.runtime.listen import Listener
from tests import postgres
from tests.factories import HOUR_MS, START_MS, make_columns, make_config, make_series
from tests.faults.proxy import Proxy, proxy_to, proxy_to_database
from tests.suite import Suite, run_suite

NOTICED_S = 8.0
DIRECTIONS = ({}, {"to_server": False}, {"to_client": False})
COUNT = 60_000


def running_calls(suite: Suite, name: str, method: str) -> float:
    """Return how many calls of a method a service is busy with, by its metrics."""
    with urllib.request.urlopen(f"http://{suite.metrics(name)}/metrics", timeout=5) as response:
        lines = [line for line in response.read().decode().splitlines() if f'grpc_method="{method}"' in line]

    def total(metric: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{metric}{{"))

    return total("grpc_server_started_total") - total("grpc_server_handled_total")


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Return how long it took; fail when it does not come true in time."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.05)
    return time.monotonic() - started


@contextmanager
def proxies(target: str) -> Iterator[list[Proxy]]:
    """Yield a proxy for each direction."""
    with ExitStack() as stack:
        yield [stack.enter_context(proxy_to(target)) for _ in DIRECTIONS]


def swallow_all(group: list[Proxy]) -> set[int]:
    """Silence a connection or more of each proxy; return the ports by which the server knows them."""
    ports: set[int] = set()
    for proxy, direction in zip(group, itertools.cycle(DIRECTIONS), strict=False):
        ports |= proxy.ports()
        assert proxy.swallow(**direction) >= 1
    return ports


def connected(suite: Suite, name: str, ports: set[int]) -> bool:
    """Tell whether a service still holds connections from some ports."""
    return any(one.raddr and one.raddr.port in ports for one in suite.process(name).net_connections("tcp"))


def test_c4_c5_silent_clients_are_let_go_and_idle_watchers_go_on(suite: Suite) -> None:
    """Nothing happens on the streams but a heartbeat every 5 s: pings tell."""
    with (
        suite.client() as direct,
        proxies(suite.target("backtest")) as group,
        ThreadPoolExecutor(len(group)) as pool,
    ):
        config = make_config(direct, strategy="slow", params={"seconds": 60.0}, allow_reuse=True)
        leader, idle = (direct.create_backtest(config).backtest_id for _ in range(2))  # the second waits for the first
        clients = [Client(backtest=proxy.address) for proxy in group]
        stories = [pool.submit(lambda client=client: list(client.watch_backtest(idle))) for client in clients]
        wait_until(lambda: running_calls(suite, "backtest", "WatchBacktest") == len(group), 10)
        ports = swallow_all(group)
        assert connected(suite, "backtest", ports)
        started = time.monotonic()
        direct.cancel_backtest(idle)
        ends = [story.result(NOTICED_S) for story in stories]
        heard_s = time.monotonic() - started
        wait_until(lambda: running_calls(suite, "backtest", "WatchBacktest") == 0, NOTICED_S - heard_s)
        wait_until(lambda: not connected(suite, "backtest", ports), NOTICED_S - heard_s)
        for client in clients:
            client.close()
        direct.cancel_backtest(leader)
    print(f"\nheard of the end after {heard_s:.1f} s, all freed after {time.monotonic() - started:.1f} s")
    assert [[event.sequence for event in end] for end in ends] == [[1, 2]] * len(group)


def test_c4_c5_silent_streams_are_let_go_and_go_on(suite: Suite) -> None:
    """Three readers, one for each direction, take what they can; an upload waits for more of its client."""
    with (
        suite.client() as direct,
        proxies(suite.target("data")) as group,
        proxy_to(suite.target("data")) as uploads,
        Client(data=uploads.address) as uploader,
        ThreadPoolExecutor(len(group) + 1) as pool,
    ):
        series, columns = make_series(), make_columns(COUNT)
        direct.ingest_klines(series, [columns])
        upload = Upload(uploader, pool)
        begun, swallowed = threading.Barrier(len(group) + 1), threading.Event()

        def read(proxy: Proxy) -> tuple[float, np.ndarray]:
            """Return the longest wait for a batch, and the closes read."""
            longest, closes = 0.0, []
            with Client(data=proxy.address) as client:
                since = time.monotonic()
                for batch in client.stream_klines(series, START_MS, START_MS + COUNT * HOUR_MS, batch_size=500):
                    longest = max(longest, time.monotonic() - since)
                    closes.append(batch.columns["close"])
                    if len(closes) == 2:
                        begun.wait(10)
                        swallowed.wait(10)
                    since = time.monotonic()
            return longest, np.concatenate(closes)

        reads = [pool.submit(read, proxy) for proxy in group]
        wait_until(lambda: running_calls(suite, "data", "IngestKlines") == 1, 5)
        begun.wait(10)
        ports = swallow_all([*group, uploads])
        swallowed.set()
        let_go_s = wait_until(lambda: not connected(suite, "data", ports), NOTICED_S)
        upload.expect_unavailable(NOTICED_S - let_go_s)
        waits = [longest for longest, _ in map(Future.result, reads)]
        wait_until(lambda: running_calls(suite, "data", "StreamKlines") == 0, NOTICED_S)
        assert running_calls(suite, "data", "IngestKlines") == 0
    print(f"\nreaders went on after {', '.join(f'{one:.1f}' for one in waits)} s; all let go after {let_go_s:.1f} s")
    assert max(waits) <= NOTICED_S
    assert min(waits[:2]) > 0.5  # there was silence; the third still hears what it cannot answer
    for _, closes in map(Future.result, reads):
        np.testing.assert_array_equal(closes, columns["close"])


class Upload:
    """An ingest whose client sends one batch and then nothing, until the end."""

    def __init__(self, client: Client, pool: ThreadPoolExecutor) -> None:
        self._finish = threading.Event()
        self._sent = pool.submit(client.ingest_klines, make_series(), self._batches())

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        yield make_columns(10)
        self._finish.wait(3 * NOTICED_S)

    def expect_unavailable(self, seconds: float) -> None:
        """Require that its client is told in time."""
        with pytest.raises(Unavailable):
            self._sent.result(seconds)
        self._finish.set()


def first_ok(call: Callable[[], object], seconds: float) -> float:
    """Return after how long a call that is made again and again first succeeds."""
    started = time.monotonic()
    while True:
        try:
            call()
            return time.monotonic() - started
        except KlinecastError:
            assert time.monotonic() - started < seconds
            time.sleep(0.05)


@pytest.fixture
def behind_proxies(
    session_home: Path, postgres_server: PostgresServer, template_database: str
) -> Iterator[tuple[Suite, dict[str, Proxy]]]:
    """Yield a deployment whose services reach each other and Postgres through proxies."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres.copy_database(postgres_server, template_database))
        between = {name: stack.enter_context(proxy_to(name)) for name in ("data", "results")}
        between["postgres"], url = stack.enter_context(proxy_to_database(url))
        targets = {f"{name.upper()}_TARGET": between[name].address for name in ("data", "results")}
        home = session_home / f"proxied-{time.monotonic_ns()}"
        suite = stack.enter_context(run_suite(home, url, **targets))
        for name in ("data", "results"):
            between[name].target = suite.target(name)
        yield suite, between


def test_services_go_on_when_all_they_lean_on_went_silent(behind_proxies: tuple[Suite, dict[str, Proxy]]) -> None:
    suite, between = behind_proxies
    with suite.client(timeout_s=2 * NOTICED_S) as client:
        config = make_config(client)
        assert run_to_end(client, config) == "SUCCEEDED"
        busy = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 2.0})).backtest_id
        next(event for event in client.watch_backtest(busy) if event.state == "RUNNING")
        swallowed = {name: proxy.swallow() for name, proxy in between.items()}
        started = time.monotonic()
        created_s = first_ok(lambda: client.create_backtest(config), NOTICED_S)
        ends = run_to_end(client, config), list(client.watch_backtest(busy))[-1].state
        ended_s = time.monotonic() - started
    print(f"\nswallowed {swallowed}: created after {created_s:.1f} s, ended after {ended_s:.1f} s")
    assert min(swallowed.values()) >= 1
    assert ends == ("SUCCEEDED", "SUCCEEDED")
    assert ended_s <= 1.5 * NOTICED_S  # the service notices, then a worker


def run_to_end(client: Client, config: object) -> str:
    return list(client.run_backtest(config))[-1].state  # type: ignore[arg-type]


async def test_b7_a_silent_listener_listens_again_within_five_seconds(empty_database_url: str) -> None:
    with proxy_to_database(empty_database_url) as (proxy, url):
        wakes: asyncio.Queue[str | None] = asyncio.Queue()
        listener = Listener(url, "events", wakes.put_nowait)
        task = asyncio.create_task(listener.run())
        await asyncio.wait_for(listener.listening.wait(), 5)
        assert await wakes.get() is None
        assert proxy.swallow() == 1
        started = time.monotonic()
        async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
            payload, deadline = None, asyncio.timeout(5)
            async with deadline:
                while payload is None:
                    await connection.execute("NOTIFY events, 'again'")
                    await asyncio.sleep(0.1)
                    payload = None if wakes.empty() else wakes.get_nowait()
        print(f"\nheard again after {time.monotonic() - started:.1f} s")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
