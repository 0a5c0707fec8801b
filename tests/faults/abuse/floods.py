"""What one tenant does in bulk, and what another notices: quiet, and meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import resource
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from klinecast.api.backtest.v1 import backtest_service_pb2 as backtest_pb
from klinecast.api.data.v1 import data_service_pb2 as data_pb
from klinecast.client import Client, SeriesKey
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from tests.factories import HOUR_MS, START_MS, make_columns, make_config, make_series
from tests.faults.abuse.flood import Flood
from tests.faults.abuse.row import Row
from tests.faults.abuse.victim import measure
from tests.faults.abuse.wire import StreamOpener, connect
from tests.suite import Suite

TIMES, FLOOR_MS = 2.0, 10.0
"""A victim's p99 may be twice the quiet one; on a machine of two cores anything below the floor is noise."""
KLINES = 5_000
_DATA, _BACKTEST = "/klinecast.api.data.v1.DataService", "/klinecast.api.backtest.v1.BacktestService"


@dataclass(slots=True)
class Floods:
    """Rows of floods against one deployment; each stretch of measuring takes `seconds`."""

    suite: Suite
    victim: Client
    attacker: Client
    seconds: float
    times: float = TIMES
    floor_ms: float = FLOOR_MS
    series: SeriesKey | None = None

    def _stored(self) -> SeriesKey:
        if self.series is None:
            self.series = make_series()
            self.victim.ingest_klines(self.series, [make_columns(KLINES)])
        return self.series

    def get_series(self) -> object:
        """Make the victim's call of the data service."""
        return self.victim.get_series(self._stored())

    def list_series(self) -> object:
        """Make another one, of a method that nobody floods."""
        return next(self.victim.list_series(symbol=self._stored().symbol))

    def unary(self, per_second: int, *, same_method: bool) -> Row:
        """Call far more often than the service can answer."""
        request = data_pb.GetSeriesRequest(series=series_to_proto(self._stored())).SerializeToString()
        flood = Flood(self.suite.target("data"), f"{_DATA}/GetSeries", request, per_second, connections=2)
        victim, before = "the same method" if same_method else "another method", self._refused("data", "GetSeries")
        row = self._row(
            "flood", f"{per_second:,} calls/s; the victim calls {victim}", flood,
            self.get_series if same_method else self.list_series,
        )  # fmt: skip
        return self._with_refusals(row, self._refused("data", "GetSeries") - before)

    def open_and_cancel(self, per_second: int, linger_s: float) -> Row:
        """Open streams and cancel them, at once or when their handlers are at work."""
        request = self._stream_request()
        flood = Flood(self.suite.target("data"), f"{_DATA}/StreamKlines", request, per_second, linger_s)
        return self._row(
            "C11", f"{per_second:,} streams/s, cancelled after {linger_s * 1000:g} ms", flood, self.get_series
        )

    def elsewhere(self, per_second: int) -> Row:
        """Flood another process: what the flooding client and a busy machine alone cost the victim."""
        flood = Flood(self.suite.target("results"), f"{_DATA}/StreamKlines", self._stream_request(), per_second, 0.0)
        row = self._row("control", f"{per_second:,} streams/s at another process", flood, self.get_series)
        return dataclasses.replace(row, seen="-", limit="what the machine costs", held=True)

    def watches(self, count: int) -> Row:
        """Open more watches than one tenant may."""
        config = make_config(self.attacker, strategy="slow", params={"seconds": 60.0})
        backtest_id = self.attacker.create_backtest(config).backtest_id
        mine = self.victim.create_backtest(make_config(self.victim)).backtest_id
        request = backtest_pb.WatchBacktestRequest(backtest_id=backtest_id).SerializeToString()
        flood = Flood(
            self.suite.target("backtest"), f"{_BACKTEST}/WatchBacktest", request, 2_000,
            connections=count // 100, total=count,
        )  # fmt: skip
        before = self._refused("backtest", "WatchBacktest")
        row = self._row(
            "H12", f"{count:,} watches opened", flood, lambda: self.victim.get_backtest(mine), settle_s=count / 500
        )
        self.attacker.cancel_backtest(backtest_id)
        return self._with_refusals(row, self._refused("backtest", "WatchBacktest") - before)

    def _with_refusals(self, row: Row, refused: float) -> Row:
        """Say to how many calls of the row the service said that it is too much; none is a fault."""
        return dataclasses.replace(row, seen=f"RESOURCE_EXHAUSTED to {refused:.0f}", held=row.held and refused > 0)

    def _refused(self, service: str, method: str) -> float:
        """Return to how many calls of a method a service has said so until now."""
        page = urllib.request.urlopen(f"http://{self.suite.metrics(service)}/metrics", timeout=5).read().decode()
        labels = f'grpc_code="RESOURCE_EXHAUSTED",grpc_method="{method}"'
        refused = re.search(rf"handled_total\{{{labels}.*\}} (\S+)", page)
        return float(refused[1]) if refused else 0.0

    def _row(self, row: str, injected: str, flood: Flood, call: Callable[[], object], *, settle_s: float = 0.5) -> Row:
        measure(call, 0.5)
        quiet = measure(call, self.seconds)
        with flood.running() as done:
            time.sleep(settle_s)
            meanwhile = measure(call, self.seconds)
        most_ms = max(self.times * quiet.p99_ms, self.floor_ms)
        happened = done["opened"] >= flood.total or done["per_second"] >= 0.8 * flood.per_second
        asked = f"{done['opened']:,} opened, the client's CPU {done['cpu_s']} s"
        figure = f"{meanwhile} (quiet {quiet.p50_ms:.1f}, {quiet.p99_ms:.1f}; {asked})"
        held = happened and meanwhile.failed == 0 and meanwhile.p99_ms <= most_ms
        return Row(row, injected, "CANCELLED", figure, f"p99 <= {most_ms:.1f} ms", held)

    def _stream_request(self) -> bytes:
        end_ms = START_MS + KLINES * HOUR_MS
        return data_pb.StreamKlinesRequest(
            series=series_to_proto(self._stored()),
            start_time=timestamp_to_proto(START_MS),
            end_time=timestamp_to_proto(end_ms),
            batch_size=100,
        ).SerializeToString()

    def memory_of_cancels(self, count: int) -> Row:
        """Open and cancel streams, twice as many as said; the second half of them must not cost memory."""
        process, opener = self.suite.process("data"), self._opener()
        self._cancel(opener, count)  # what is kept once, by pools and allocators
        before = _settled_rss(process)
        self._cancel(opener, count)
        opener.close()
        slope = (_settled_rss(process) - before) / count
        return Row(
            "C10", f"{count:,} streams opened, cancelled", "CANCELLED", f"{slope:.1f} B each", "< 30 B", slope < 30
        )

    def _opener(self) -> StreamOpener:
        metadata = [("klinecast-tenant", "attacker")]
        return StreamOpener(self.suite.target("data"), f"{_DATA}/StreamKlines", self._stream_request(), metadata)

    def _cancel(self, opener: StreamOpener, count: int) -> None:
        for _ in range(0, count, 50):
            streams = opener.open(50)
            opener.drain(0.02)
            opener.reset(streams)

    def mute(self, count: int) -> Row:
        """Connect and say nothing."""
        process = self.suite.process("data")
        before = process.num_fds()
        with _connections(self.suite.target("data"), count):
            opened = _wait_until(lambda: process.num_fds() >= before + count, 5.0) is not None
            took = _wait_until(lambda: process.num_fds() <= before + 5, 20.0)
            quick = measure(self.get_series, 1.0)
        held = opened and took is not None and took <= 10 and quick.failed == 0
        figure = f"descriptors back after {took or float('inf'):.1f} s; meanwhile {quick}"
        return Row("C14", f"{count} connections that never speak", "closed", figure, "<= 10 s", held)

    def few_descriptors(self, count: int) -> Row:
        """Take away the descriptors, connect more often than there are, give them back."""
        process = self.suite.process("data")
        limits = process.rlimit(resource.RLIMIT_NOFILE)
        process.rlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        try:
            with _connections(self.suite.target("data"), count):
                before, began = sum(process.cpu_times()[:2]), time.monotonic()
                time.sleep(2.0)
                busy = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
        finally:
            process.rlimit(resource.RLIMIT_NOFILE, limits)
        took = _wait_until(self._answers, 10.0)
        held = busy < 0.2 and took is not None and took <= 1
        figure = f"CPU {busy:.0%}; an answer {took or float('inf'):.2f} s after"
        return Row("C15", f"{count} connections, 256 descriptors", "refused", figure, "< 20 %, <= 1 s", held)

    def _answers(self) -> bool:
        with self.suite.client(tenant="late", timeout_s=1.0) as late:
            return late.get_series(self._stored()) is not None

    def slow_readers(self, count: int, seconds: float) -> Row:
        """Read large streams at a message a second."""
        series, many = make_series(), 200_000
        self.attacker.ingest_klines(series, [make_columns(many)])
        process = self.suite.process("data")
        end_ms = START_MS + many * HOUR_MS
        measure(self.get_series, 0.5)
        quiet, before = measure(self.get_series, self.seconds), process.memory_info().rss
        streams = [self.attacker.stream_klines(series, START_MS, end_ms, batch_size=4_096) for _ in range(count)]
        for stream in streams:
            next(stream)
        peak, seconds_p99, began = process.memory_info().rss, list[float](), time.monotonic()
        while time.monotonic() - began < seconds:
            for stream in streams:
                next(stream, None)
            seconds_p99.append(measure(self.get_series, 1.0).p99_ms)
            peak = max(peak, process.memory_info().rss)
        for stream in streams:
            stream.close()
        grown = (peak - before) / 1e6
        p99_ms = statistics.median(seconds_p99)
        figure = f"{grown:.0f} MB more; p99 of the median second {p99_ms:.1f} ms (quiet {quiet.p99_ms:.1f})"
        held = grown < 50 and p99_ms <= max(self.times * quiet.p99_ms, 2 * self.floor_ms)
        return Row("C1", f"{count} readers of 1 message/s, {seconds:g} s", "OK", figure, "< 50 MB, 2 x", held)

    def cancel_behind_watches(self, count: int) -> Row:
        """Fill the connection of the watches; a cancel has one of its own."""
        config = make_config(self.victim, strategy="slow", params={"seconds": 60.0})
        watched = self.victim.create_backtest(config).backtest_id
        watches = [self.victim.watch_backtest(watched) for _ in range(count)]
        for watch in watches:
            next(watch)  # none waits in the client for another to end
        latency = measure(lambda: self.victim.cancel_backtest(watched), self.seconds)
        for watch in watches:
            watch.close()
        most_ms = max(200.0, self.floor_ms)
        held = latency.p99_ms <= most_ms and latency.failed == 0
        return Row("C13", f"Cancel behind {count:,} watches", "OK", str(latency), f"p99 <= {most_ms:g} ms", held)


@contextlib.contextmanager
def _connections(target: str, count: int) -> Iterator[None]:
    sockets = [connect(target) for _ in range(count)]
    try:
        yield
    finally:
        for one in sockets:
            one.close()


def _wait_until(condition: Callable[[], bool], seconds: float) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(Exception):
            if condition():
                return time.monotonic() - began
        time.sleep(0.05)
    return None


def _settled_rss(process: psutil.Process) -> int:
    time.sleep(1.0)
    return int(process.memory_info().rss)
