"""A channel whose certificate changes: what is opened, kept and closed."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from klinecast.client import _renewing
from klinecast.client._renewing import RenewingChannel
from klinecast.errors import InvalidArgument


class Counted:
    """Opens real channels, and knows which of them still work."""

    def __init__(self, target: str) -> None:
        self.target, self.stamp, self.channels, self.absent = target, 0, list[grpc.Channel](), False

    def open(self) -> grpc.Channel:
        if self.absent:
            raise InvalidArgument("cannot read the certificate")
        self.channels.append(grpc.insecure_channel(self.target))
        return self.channels[-1]

    def works(self) -> list[bool]:
        return [answers(one) for one in self.channels]


def answers(channel: grpc.Channel) -> bool:
    try:
        return bool(channel.unary_unary("/t/Echo")(b"word") == b"word")
    except ValueError:  # closed
        return False


def numbers(_: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for number in range(3):
        yield str(number).encode()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    monkeypatch.setattr(_renewing, "CHECK_S", 0.0)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
        "Numbers": grpc.unary_stream_rpc_method_handler(numbers),
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Counted(f"127.0.0.1:{port}")
    server.stop(None)


def test_a_file_that_is_away_leaves_the_channel_before_in_use(counted: Counted) -> None:
    with RenewingChannel(counted.open, lambda: counted.stamp) as channel:
        echo = channel.unary_unary("/t/Echo")
        counted.stamp, counted.absent = 1, True
        assert echo(b"a") == b"a"
        counted.absent = False
        assert echo(b"b") == b"b"
        assert len(counted.channels) == 2


def test_an_old_channel_is_closed_once_its_calls_are_over(counted: Counted) -> None:
    with RenewingChannel(counted.open, lambda: counted.stamp) as channel:
        echo, stream = channel.unary_unary("/t/Echo"), channel.unary_stream("/t/Numbers")(b"")
        over = threading.Event()
        stream.add_callback(over.set)  # after the channel's own
        assert next(stream) == b"0"
        for counted.stamp in (1, 2, 3):
            assert echo.with_call(b"a")[0] == echo.future(b"a").result() == b"a"
        assert counted.works()[0]
        assert list(stream) == [b"1", b"2"]
        assert over.wait(5)
        assert echo(b"a") == b"a"
        assert counted.works() == [False, False, False, True]
