"""python -m tests.faults.rolling: every service is restarted again and again under load, and nobody may notice.

Callers of three kinds: the SDK, generated code that never tries a call again, and readers and watchers of streams.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psycopg
import sqlalchemy as sa

from klinecast.api.backtest.v1 import backtest_service_pb2, backtest_service_pb2_grpc
from klinecast.api.data.v1 import data_service_pb2, data_service_pb2_grpc
from klinecast.api.results.v1 import results_service_pb2, results_service_pb2_grpc
from klinecast.client import BacktestConfig, Client
from services.runtime.database import libpq_url
from services.runtime.migrations import migrate
from tests import postgres
from tests.factories import HOUR_MS, START_MS, make_columns, make_config, make_series
from tests.faults.fleet import MEMBERS, REPLICAS, Fleet, run_fleet
from tests.faults.history import History, Submit, Verdict, check, digest, read_final, wait_until_quiet
from tests.suite import ORDER

_CALL_S = 10.0
_PAUSE_S = 0.02
_QUIET_S = 60.0
_STREAMED = 20_000
Restarts = Mapping[str, Sequence[tuple[float, float]]]


class Tally:
    """How calls of each kind went."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failed: dict[str, list[str]] = defaultdict(list)

    @contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        """Count a call; one that fails is written down and goes no further."""
        begun, problem = time.monotonic(), None
        try:
            yield
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        with self._lock:
            self.seconds[kind].append(time.monotonic() - begun)
            if problem is not None:
                self.failed[kind].append(problem)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a run went."""

    restarts: Restarts
    tally: Tally
    verdict: Verdict
    backtests: int
    attempted_again: int

    @property
    def failures(self) -> Mapping[str, Sequence[str]]:
        """What failed, by kind of call; a stream counts as one, and fails when it has a gap or a double."""
        return {kind: texts for kind, texts in self.tally.failed.items() if texts}

    def __str__(self) -> str:
        lines = ["member    restarts  stop p50  max s  serves again p50  max s"]
        for name, times in self.restarts.items():
            stops, starts = zip(*times, strict=True)
            lines.append(
                f"{name:<9} {len(times):8}  {np.median(stops):8.1f}  {max(stops):5.1f}"
                f"  {np.median(starts):16.1f}  {max(starts):5.1f}"
            )
        lines.append("calls                      count  failed   p50   p99    max ms")
        for kind, seconds in sorted(self.tally.seconds.items()):
            p50, p99 = np.percentile(seconds, [50, 99]) * 1000
            failed = len(self.tally.failed[kind])
            lines.append(f"{kind:<24} {len(seconds):7}  {failed:6}  {p50:4.0f}  {p99:4.0f}  {max(seconds) * 1000:8.0f}")
        again = f"{self.attempted_again} of them attempted again"
        return "\n".join([*lines, f"{self.backtests} backtests, {again}: {self.verdict}"])


class Rolling:
    """One run on a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._tally, self._history = Tally(), History()
        self._over = threading.Event()
        self._restarts: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def run(self, restarts: int, *, say: Callable[[str], None] = lambda text: None) -> Report:
        """Restart each replica of each member so often, one after another; 0: one of each member, all together."""
        with self._fleet.client() as client, ThreadPoolExecutor(64) as pool:
            configs = self._make_configs(client)
            expected = {name: digest(client, self._finish(client, config)) for name, config in configs.items()}
            loads = [pool.submit(load) for load in self._loads(client, configs, pool)]
            try:
                self._restart_all(restarts, say)
            finally:
                self._over.set()
            for load in loads:
                load.result(_QUIET_S)
        wait_until_quiet(self._fleet.url, _QUIET_S)
        with self._fleet.client() as client, psycopg.connect(libpq_url(self._fleet.url)) as connection:
            verdict = check(self._history, read_final(self._fleet.url, client), expected)
            again = connection.execute("SELECT count(*) FROM backtest.backtests WHERE attempt > 1").fetchone()
        return Report(
            restarts=self._restarts,
            tally=self._tally,
            verdict=verdict,
            backtests=len(self._history.submits),
            attempted_again=again[0] if again else 0,
        )

    def _restart_all(self, restarts: int, say: Callable[[str], None]) -> None:
        with self._tally.counted("migration"):
            self._migrate()
        if restarts == 0:
            self._restart(MEMBERS, 0)
        for number in range(restarts):
            for name, index in itertools.product(MEMBERS, range(REPLICAS)):
                self._restart([name], index)
            failed = {kind: len(texts) for kind, texts in self._tally.failed.items() if texts}
            say(f"{number + 1} of {restarts}: failed {failed or 0}")

    def _migrate(self) -> None:
        """Add to hot tables what a later version might, as its first replica would: again when a table is busy."""
        for last in (False, False, False, True):
            try:
                migrate(self._fleet.url, "planted", Path(__file__).parent / "planted_migrations")
                return
            except sa.exc.OperationalError:
                if last:
                    raise

    def _restart(self, names: Sequence[str], index: int) -> None:
        for name, times in self._fleet.restart(names, index).items():
            self._restarts[name].append(times)

    def _make_configs(self, client: Client) -> dict[str, BacktestConfig]:
        plain = make_config(client, klines=1_000)
        strategies = {"dual_ma": {}, "bollinger": {}, "slow": {"seconds": 1.0}}
        return {name: dataclasses.replace(plain, strategy=name, params=params) for name, params in strategies.items()}

    def _finish(self, client: Client, config: BacktestConfig) -> str:
        request_id = f"quiet-{config.strategy}"
        last = list(client.run_backtest(config, request_id=request_id))[-1]
        assert last.state == "SUCCEEDED", last
        self._history.submitted(Submit(request_id, config.strategy, last.backtest_id))
        return last.backtest_id

    def _loads(
        self, client: Client, configs: Mapping[str, BacktestConfig], pool: ThreadPoolExecutor
    ) -> Iterator[Callable[[], None]]:
        """Yield what runs beside the restarts, each in a thread of its own."""
        series, columns = make_series(), make_columns(_STREAMED)
        client.ingest_klines(series, [columns])
        backtest_id = self._history.submits[0].backtest_id or ""
        sdk: dict[str, Callable[[Client], object]] = {
            "SDK data": lambda one: one.get_series(series),
            "SDK backtest": lambda one: one.get_backtest(backtest_id),
            "SDK results": lambda one: one.get_result(backtest_id),
        }
        for kind, call in sdk.items():
            yield lambda kind=kind, call=call: self._call_sdk(kind, call)  # type: ignore[misc]
        for kind, channel_call in self._plain_calls():
            yield lambda kind=kind, call=channel_call: self._call(kind, call)  # type: ignore[misc]
        for _ in range(2):
            yield lambda: self._stream(series, columns)
        yield self._ingest
        yield lambda: self._submit(client, configs, pool)

    def _call_sdk(self, kind: str, call: Callable[[Client], object]) -> None:
        with self._fleet.client() as client:
            self._call(kind, lambda: call(client))

    def _call(self, kind: str, call: Callable[[], object]) -> None:
        while not self._over.wait(_PAUSE_S):
            with self._tally.counted(kind):
                call()

    def _plain_calls(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield unary calls of generated code over channels without any option: no retries, no keepalive."""
        data, results, backtest = (grpc.insecure_channel(self._fleet.target(name)) for name in ORDER)
        stubs = {
            "data": data_service_pb2_grpc.DataServiceStub(data).ListSeries,
            "results": results_service_pb2_grpc.ResultsServiceStub(results).ListResults,
            "backtest": backtest_service_pb2_grpc.BacktestServiceStub(backtest).ListStrategies,
        }
        requests = {
            "data": data_service_pb2.ListSeriesRequest(),
            "results": results_service_pb2.ListResultsRequest(page_size=1),
            "backtest": backtest_service_pb2.ListStrategiesRequest(),
        }
        for name, stub in stubs.items():
            yield f"never again {name}", lambda stub=stub, name=name: stub(requests[name], timeout=_CALL_S)  # type: ignore[misc]

    def _stream(self, series: object, columns: Mapping[str, np.ndarray]) -> None:
        """Read a series slowly enough to be interrupted, and hold it against what was stored."""
        with self._fleet.client() as client:
            while not self._over.is_set():
                with self._tally.counted("kline stream"):
                    closes = []
                    for batch in client.stream_klines(series, START_MS, START_MS + _STREAMED * HOUR_MS, batch_size=500):  # type: ignore[arg-type]
                        closes.append(batch.columns["close"])
                        time.sleep(_PAUSE_S)
                    np.testing.assert_array_equal(np.concatenate(closes), columns["close"])

    def _ingest(self) -> None:
        """Append to a series, a few klines at a time; in the end each must be there once."""
        series, rows = make_series(), make_columns(500_000)
        sent = 0
        with self._fleet.client() as client:
            while not self._over.wait(5 * _PAUSE_S):
                with self._tally.counted("ingest"):
                    part = {name: values[sent : sent + 10] for name, values in rows.items()}
                    assert client.ingest_klines(series, [part]).inserted == 10
                sent += 10
            with self._tally.counted("all ingested"):
                assert client.get_series(series).kline_count == sent

    def _submit(self, client: Client, configs: Mapping[str, BacktestConfig], pool: ThreadPoolExecutor) -> None:
        """Ask for two backtests a second and have each watched to its end."""
        names, number = list(configs), 0
        while not self._over.wait(0.5):
            name, request_id, backtest_id = names[number % len(names)], f"r{number}", None
            number += 1
            with self._tally.counted("create backtest"):
                backtest_id = client.create_backtest(configs[name], request_id=request_id).backtest_id
            self._history.submitted(Submit(request_id, name, backtest_id))
            if backtest_id is not None:
                pool.submit(self._watch, client, backtest_id)

    def _watch(self, client: Client, backtest_id: str) -> None:
        heard: list[int] = []
        with self._tally.counted("watch"):
            for event in client.watch_backtest(backtest_id):
                heard.append(event.sequence)
        self._history.watched(backtest_id, heard)


def main() -> int:
    """Run it; 0 when nothing failed and nothing was lost or doubled."""
    parser = argparse.ArgumentParser(prog="tests.faults.rolling", description=__doc__)
    parser.add_argument("--restarts", type=int, default=20, help="of each replica (default: %(default)s)")
    restarts = parser.parse_args().restarts
    with postgres.make_home() as home, postgres.run_server(home) as server:
        url = server.url(postgres.build_template(server))
        with run_fleet(home / "fleet", url) as fleet:
            report = Rolling(fleet).run(restarts, say=lambda text: print(text, flush=True))
    print(report)
    for kind, texts in report.failures.items():
        print(*(f"  {kind}: {text}" for text in texts[:20]), sep="\n")
    return 0 if report.verdict.clean and not report.failures else 1


if __name__ == "__main__":
    sys.exit(main())
