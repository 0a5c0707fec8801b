"""Chaos: backtests are asked for while Postgres restarts and workers and services are killed, by a seeded schedule.

The faults happen in the calling thread (a Postgres dies with the thread that started it), the load in others.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg

from klinecast.client import BacktestConfig, Client, KlinecastError
from services.local.postgres import PostgresServer
from services.runtime.database import libpq_url
from tests.broker import Broker
from tests.factories import make_config
from tests.faults.baseline import WORKERS
from tests.faults.history import Final, History, Submit, Verdict, check, digest, read_final, wait_until_quiet
from tests.suite import Suite

RESTART_S, KILL_S = (5.0, 40.0), (5.0, 20.0)
"""Between two restarts of Postgres, and between two kills."""
MAX_RUNNING = 2
SETTINGS = {
    "WORKERS": str(WORKERS),
    "MAX_RUNNING": str(MAX_RUNNING),
    "TENANT__MAX_RUNNING": str(MAX_RUNNING),
}
"""Of a deployment to be killed at will: it has room for one more than may run."""
WATCHED = 0.3
"""Share of the backtests that somebody watches."""
_MOST_RUNNING = """
WITH moves AS (
  SELECT event_time, (state = 'RUNNING')::int - coalesce((lag(state) OVER story = 'RUNNING')::int, 0) AS step
  FROM backtest.events WINDOW story AS (PARTITION BY backtest_id ORDER BY sequence)
), counted AS (SELECT sum(step) OVER (ORDER BY event_time, step) AS running FROM moves)
SELECT coalesce(max(running), 0)::int FROM counted
"""
"""From the events, which no sampling misses: a slot is given away after the end that freed it is committed."""
_CALL_S = 20.0
_QUIET_S = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a run went."""

    seed: int
    verdict: Verdict
    backtests: int
    faults: Mapping[str, int]
    """How often each fault happened, seen to have happened."""
    attempts: Mapping[int, int]
    """Backtests by attempts."""
    most_running: int
    """How many ran at once, at most."""
    seconds: float

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        again = sum(count for attempts, count in self.attempts.items() if attempts > 1)
        return (
            f"seed {self.seed}: {self.backtests} backtests in {self.seconds:.0f} s, {again} of them attempted again, "
            f"at most {self.most_running} at once; faults: {faults}; {self.verdict}"
        )


class Chaos:
    """One run on a deployment of its own."""

    def __init__(
        self, suite: Suite, server: PostgresServer, url: str, broker: Broker | None, seed: int, *, haste: float = 1.0
    ) -> None:
        """Take a deployment over; with haste 2 faults come twice as often."""
        self._suite, self._server, self._url, self._broker = suite, server, url, broker
        self._random = random.Random(seed)
        self._seed = seed
        self._restart_s, self._kill_s = (tuple(one / haste for one in span) for span in (RESTART_S, KILL_S))
        self._history = History()
        self.faults: Counter[str] = Counter()

    def run(self, backtests: int, per_s: float, say: Callable[[str], None] = lambda text: None) -> Report:
        """Ask for backtests at a pace while things die; then let it calm down and look."""
        started = time.monotonic()
        with self._suite.client(timeout_s=_CALL_S) as client:
            configs = self._make_configs(client)
            expected = {name: digest(client, self._finish(client, config)) for name, config in configs.items()}
        load = threading.Thread(target=self._load, args=(configs, backtests, per_s), name="load")
        load.start()
        self._break_things(load.is_alive, say)
        load.join()
        final, attempts, most_running = self._calm_down()
        verdict = check(self._history, final, expected)
        return Report(
            seed=self._seed,
            verdict=verdict,
            backtests=len(self._history.submits),
            faults=dict(self.faults),
            attempts=attempts,
            most_running=most_running,
            seconds=time.monotonic() - started,
        )

    def _make_configs(self, client: Client) -> dict[str, BacktestConfig]:
        plain = make_config(client, klines=2_000)
        strategies = {"dual_ma": {}, "macd": {}, "bollinger": {}, "slow": {"seconds": 0.4}}
        return {name: dataclasses.replace(plain, strategy=name, params=params) for name, params in strategies.items()}

    def _finish(self, client: Client, config: BacktestConfig) -> str:
        """Run a config while nothing dies; it is part of the history like any other."""
        request_id = f"quiet-{config.strategy}"
        backtest = client.create_backtest(config, request_id=request_id)
        self._history.submitted(Submit(request_id, config.strategy, backtest.backtest_id))
        last = list(client.watch_backtest(backtest.backtest_id))[-1]
        assert last.state == "SUCCEEDED", last
        return backtest.backtest_id

    def _load(self, configs: Mapping[str, BacktestConfig], backtests: int, per_s: float) -> None:
        begun, choices = time.monotonic(), random.Random(self._seed + 1)
        with self._new_client() as client, ThreadPoolExecutor(8) as watchers, ThreadPoolExecutor(4) as submitters:
            for number in range(backtests):
                time.sleep(max(0.0, begun + number / per_s - time.monotonic()))
                name, is_watched = choices.choice(list(configs)), choices.random() < WATCHED
                submitters.submit(
                    self._submit, client, f"r{number}", name, configs[name], watchers if is_watched else None
                )

    def _new_client(self) -> Client:
        return self._suite.client(timeout_s=_CALL_S)

    def _submit(
        self, client: Client, request_id: str, name: str, config: BacktestConfig, watchers: ThreadPoolExecutor | None
    ) -> None:
        """Send a request until it is answered, for a minute at most."""
        deadline, backtest_id = time.monotonic() + 60.0, None
        while backtest_id is None and time.monotonic() < deadline:
            try:
                backtest_id = client.create_backtest(config, request_id=request_id).backtest_id
            except KlinecastError:
                time.sleep(0.2)
        self._history.submitted(Submit(request_id, name, backtest_id))
        if watchers is not None and backtest_id is not None:
            watchers.submit(self._watch, client, backtest_id)

    def _watch(self, client: Client, backtest_id: str) -> None:
        """Hear a story to its end, going on after every cut."""
        heard: list[int] = []
        deadline = time.monotonic() + _QUIET_S
        while time.monotonic() < deadline:
            try:
                for event in client.watch_backtest(backtest_id, after_sequence=heard[-1] if heard else 0):
                    heard.append(event.sequence)
                break
            except KlinecastError:
                time.sleep(0.2)
        self._history.watched(backtest_id, heard)

    def _break_things(self, goes_on: Callable[[], bool], say: Callable[[str], None]) -> None:
        begun = said = time.monotonic()
        restart_at, kill_at = (begun + self._random.uniform(*span) / 2 for span in (self._restart_s, self._kill_s))
        while goes_on():
            now = time.monotonic()
            if now >= restart_at:
                self._restart_postgres()
                restart_at = time.monotonic() + self._random.uniform(*self._restart_s)
            if now >= kill_at:
                self._kill_something()
                kill_at = time.monotonic() + self._random.uniform(*self._kill_s)
            if now - said >= 10:
                said = now
                say(f"{now - begun:4.0f} s: {len(self._history.submits)} backtests, faults {dict(self.faults)}")
            time.sleep(0.05)

    def _restart_postgres(self) -> None:
        pid = self._server.pid
        self._server.kill()
        self.faults["postgres"] += pid is not None and not psutil.pid_exists(pid)
        time.sleep(self._random.uniform(0.0, 2.0))
        self._server.start()

    def _kill_something(self) -> None:
        choices: list[Callable[[], str | None]] = [self._kill_child] * 3
        choices += [lambda name=name: self._kill_service(name) for name in ("backtest", "results", "data")]  # type: ignore[misc]
        if self._broker is not None:
            choices += [self._kill_worker, self._kill_broker]
        killed = self._random.choice(choices)()
        if killed is not None:
            self.faults[killed] += 1

    def _kill_child(self) -> str | None:
        parents = [one.process for one in self._suite.workers] or [self._suite.process("backtest")]
        children = list(itertools.chain.from_iterable(parent.children() for parent in parents))
        if not children:
            return None
        child = self._random.choice(children)
        child.send_signal(signal.SIGKILL)
        child.wait(5)
        return "child"

    def _kill_service(self, name: str) -> str:
        self._suite.kill(name)
        self._suite.start(name)
        return name

    def _kill_worker(self) -> str:
        self._suite.workers.pop(0).kill()
        self._suite.add_worker()
        return "worker"

    def _kill_broker(self) -> str:
        assert self._broker is not None
        self._broker.kill()
        time.sleep(self._random.uniform(0.0, 2.0))
        self._broker.start()
        return "broker"

    def _calm_down(self) -> tuple[Final, Mapping[int, int], int]:
        """Wait until nothing waits or runs any more, and read what there is."""
        wait_until_quiet(self._url, _QUIET_S)
        with psycopg.connect(libpq_url(self._url), autocommit=True) as connection:
            counted = connection.execute("SELECT attempt, count(*) FROM backtest.backtests GROUP BY attempt").fetchall()
            [most_running] = connection.execute(_MOST_RUNNING).fetchone() or (0,)
        with self._suite.client(timeout_s=_CALL_S) as client:
            return read_final(self._url, client), dict(counted), most_running
