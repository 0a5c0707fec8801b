"""A stopping server cancels calls it has not begun (grpc#41785): the SDK makes them again, and goes on with streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from klinecast.api.backtest.v1 import backtest_pb2, backtest_service_pb2, backtest_service_pb2_grpc
from klinecast.client import Client
from klinecast.errors import Unavailable

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


class Cancelling(backtest_service_pb2_grpc.BacktestServiceServicer):
    """Cancels so many calls, then answers; a watch ends after each event as if it were the last: the third is."""

    def __init__(self, cancels: int) -> None:
        self.left = cancels
        self.watched: list[int] = []

    def GetBacktest(  # noqa: N802
        self, request: backtest_service_pb2.GetBacktestRequest, context: grpc.ServicerContext
    ) -> backtest_service_pb2.GetBacktestResponse:
        """Get nothing but an id."""
        self._cancel(context)
        backtest = backtest_pb2.Backtest(backtest_id=request.backtest_id, state=backtest_pb2.BACKTEST_STATE_QUEUED)
        return backtest_service_pb2.GetBacktestResponse(backtest=backtest)

    def WatchBacktest(  # noqa: N802
        self, request: backtest_service_pb2.WatchBacktestRequest, context: grpc.ServicerContext
    ) -> Iterator[backtest_service_pb2.WatchBacktestResponse]:
        """Send the next event."""
        self.watched.append(request.after_sequence)
        sequence = request.after_sequence + 1
        state = backtest_pb2.BACKTEST_STATE_SUCCEEDED if sequence == 3 else backtest_pb2.BACKTEST_STATE_RUNNING
        event = backtest_pb2.BacktestEvent(backtest_id=request.backtest_id, sequence=sequence, state=state)
        yield backtest_service_pb2.WatchBacktestResponse(event=event)
        self._cancel(context)

    def _cancel(self, context: grpc.ServicerContext) -> None:
        self.left -= 1
        if self.left >= 0:
            context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")


class Mute(Cancelling):
    """Ends each watch but every third as if all were told, before the next event."""

    def WatchBacktest(  # noqa: N802
        self, request: backtest_service_pb2.WatchBacktestRequest, context: grpc.ServicerContext
    ) -> Iterator[backtest_service_pb2.WatchBacktestResponse]:
        """Send the next event, or nothing."""
        if len(self.watched) % 3 == 2:
            yield from super().WatchBacktest(request, context)
        else:
            self.watched.append(request.after_sequence)


@contextmanager
def serving(servicer: Cancelling) -> Iterator[str]:
    """Yield the address of a server."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    backtest_service_pb2_grpc.add_BacktestServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_cancelled_call_is_made_again() -> None:
    servicer = Cancelling(2)
    with serving(servicer) as target, Client(backtest=target) as client:
        assert client.get_backtest(ID).state == "QUEUED"
    assert servicer.left == -1


@pytest.mark.parametrize("cancels", [0, 2])
def test_c9_a_watch_that_is_ended_early_goes_on_after_what_was_heard(cancels: int) -> None:
    servicer = Cancelling(cancels)
    with serving(servicer) as target, Client(backtest=target) as client:
        assert [event.sequence for event in client.watch_backtest(ID)] == [1, 2, 3]
    assert servicer.watched == [0, 1, 2]


def test_a_watch_that_ends_before_it_says_anything_has_not_heard_the_end() -> None:
    servicer = Mute(0)
    with serving(servicer) as target, Client(backtest=target) as client:
        assert [event.sequence for event in client.watch_backtest(ID)] == [1, 2, 3]
    assert servicer.watched == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_nothing_follows_the_last_event() -> None:
    servicer = Mute(0)
    with serving(servicer) as target, Client(backtest=target) as client:
        assert list(client.watch_backtest(ID, after_sequence=3)) == []
    assert servicer.watched == [3]


def test_a_closed_client_makes_no_call_again() -> None:
    servicer = Cancelling(1_000_000)
    with serving(servicer) as target:
        client = Client(backtest=target)
        closing = threading.Timer(0.2, client.close)
        closing.start()
        with pytest.raises(Unavailable):
            client.get_backtest(ID)
        closing.join()
