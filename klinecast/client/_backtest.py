"""The backtest service."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from klinecast.api.backtest.v1 import backtest_pb2
from klinecast.api.backtest.v1 import backtest_service_pb2 as pb
from klinecast.api.backtest.v1.backtest_service_pb2_grpc import BacktestServiceStub
from klinecast.backtest_config import BacktestConfig
from klinecast.client._calls import Caller
from klinecast.convert import models as convert
from klinecast.convert.backtest import config_to_proto
from klinecast.errors import Unavailable
from klinecast.models import Backtest, BacktestEvent, Strategy

_UNDER_WAY = (backtest_pb2.BACKTEST_STATE_QUEUED, backtest_pb2.BACKTEST_STATE_RUNNING)
WATCHES = 100
"""On one connection; fewer than the streams a server takes (KLINECAST_LIMITS__MAX_CONCURRENT_STREAMS, 256)."""


class WatchStubs:
    """Opens another connection when one has all the watches it may: a stream too many would wait in silence."""

    def __init__(self, open_channel: Callable[[str], grpc.Channel]) -> None:
        self._open_channel = open_channel
        self._stubs: list[BacktestServiceStub] = []
        self._watching: list[int] = []
        self._lock = threading.Lock()

    @contextmanager
    def stub(self) -> Iterator[BacktestServiceStub]:
        """Lend a stub for one watch."""
        with self._lock:
            at = next((at for at, count in enumerate(self._watching) if count < WATCHES), len(self._stubs))
            if at == len(self._stubs):
                self._stubs.append(BacktestServiceStub(self._open_channel(f"watch-{at}")))
                self._watching.append(0)
            self._watching[at] += 1
        try:
            yield self._stubs[at]
        finally:
            with self._lock:
                self._watching[at] -= 1


class BacktestCalls:
    """RPCs of BacktestService; watches have connections of their own, so that they never hold up a cancel."""

    def __init__(self, channel: grpc.Channel, open_watch: Callable[[str], grpc.Channel], caller: Caller) -> None:
        self._stub = BacktestServiceStub(channel)
        self._watches = WatchStubs(open_watch)
        self._caller = caller

    def create(self, config: BacktestConfig, request_id: str | None) -> Backtest:
        """Queue a backtest; the request id, made up when none is given, makes a retry harmless."""
        request = pb.CreateBacktestRequest(
            request_id=request_id or f"sdk-{uuid.uuid4()}", config=config_to_proto(config)
        )
        return convert.backtest(self._caller.unary(self._stub.CreateBacktest, request).backtest)

    def run(self, config: BacktestConfig, request_id: str | None) -> Iterator[BacktestEvent]:
        """Queue a backtest and yield its events, in one call as long as it is not cut."""
        request = pb.RunBacktestRequest(request_id=request_id or f"sdk-{uuid.uuid4()}", config=config_to_proto(config))
        watch = pb.WatchBacktestRequest()

        def from_last() -> Iterator[Any]:
            with self._watches.stub() as stub:
                if watch.backtest_id:
                    yield from self._caller.stream(stub.WatchBacktest, watch)
                else:
                    yield from self._caller.stream(stub.RunBacktest, request)

        return self._follow(from_last, watch)

    def watch(self, backtest_id: str, after_sequence: int) -> Iterator[BacktestEvent]:
        """Yield the events after a number up to the terminal one, through cuts, each once."""
        watch = pb.WatchBacktestRequest(backtest_id=backtest_id, after_sequence=after_sequence)

        def from_last() -> Iterator[Any]:
            with self._watches.stub() as stub:
                yield from self._caller.stream(stub.WatchBacktest, watch)

        return self._follow(from_last, watch)

    def _follow(
        self, from_last: Callable[[], Iterator[Any]], watch: pb.WatchBacktestRequest
    ) -> Iterator[BacktestEvent]:
        under_way = watch.after_sequence == 0  # no story is empty; what follows a later event may be

        def whole() -> Iterator[Any]:
            yield from from_last()
            if under_way:  # something between ended the stream as if all were told
                raise Unavailable("the watch ended before the backtest")

        for response in self._caller.resuming(whole):
            event = response.event
            under_way = event.state in _UNDER_WAY
            watch.backtest_id = event.backtest_id
            if event.heartbeat or event.sequence <= watch.after_sequence:
                continue
            watch.after_sequence = event.sequence
            yield convert.event(event)

    def get(self, backtest_id: str) -> Backtest:
        """Get one backtest."""
        request = pb.GetBacktestRequest(backtest_id=backtest_id)
        return convert.backtest(self._caller.unary(self._stub.GetBacktest, request).backtest)

    def list_backtests(self, states: Sequence[str], strategy: str, limit: int | None) -> Iterator[Backtest]:
        """Yield backtests, newest first, page by page."""
        request = pb.ListBacktestsRequest(
            states=[backtest_pb2.BacktestState.Value(f"BACKTEST_STATE_{state}") for state in states],
            strategy=strategy,
            page_size=min(limit or 100, 100),
        )
        left = limit
        while left is None or left > 0:
            page = self._caller.unary(self._stub.ListBacktests, request)
            found = page.backtests if left is None else page.backtests[:left]
            yield from map(convert.backtest, found)
            left = None if left is None else left - len(found)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def cancel(self, backtest_id: str) -> Backtest:
        """Cancel a backtest; return it as it is then."""
        request = pb.CancelBacktestRequest(backtest_id=backtest_id)
        return convert.backtest(self._caller.unary(self._stub.CancelBacktest, request).backtest)

    def list_strategies(self) -> list[Strategy]:
        """List the strategies the service can run."""
        response = self._caller.unary(self._stub.ListStrategies, pb.ListStrategiesRequest())
        return [convert.strategy(one) for one in response.strategies]
