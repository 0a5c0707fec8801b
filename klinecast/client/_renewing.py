"""A channel with a certificate of its own that changes: gRPC reads it once, so a new one needs a new connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from klinecast.errors import KlinecastError

CHECK_S = 1.0


class _Opened:
    """A channel, and how many calls are in flight over it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.calls = 0


class RenewingChannel(grpc.Channel):
    """Opens a channel anew when what it was opened with has changed; calls in flight stay where they are."""

    def __init__(self, open_channel: Callable[[], grpc.Channel], stamp: Callable[[], object]) -> None:
        """Open it; `stamp` changes when the next one would differ."""
        self._open_channel = open_channel
        self._stamp_now = stamp
        self._lock = threading.Lock()
        self._stamp = stamp()
        self._checked = time.monotonic()
        self._opened = [_Opened(open_channel())]

    def begin(self) -> _Opened:
        """Return the channel for a new call, which `end` is told of once it is over."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked >= CHECK_S:
                self._checked = now
                self._renew()
            newest = self._opened[-1]
            newest.calls += 1
            return newest

    def end(self, opened: _Opened) -> None:
        """Note that a call is over."""
        with self._lock:
            opened.calls -= 1

    def _renew(self) -> None:
        stamp = self._stamp_now()
        if stamp != self._stamp:
            with suppress(KlinecastError):  # a file is away or half written: the one before serves until the next look
                self._opened.append(_Opened(self._open_channel()))
                self._stamp = stamp
        *old, newest = self._opened
        self._opened = [*(one for one in old if one.calls), newest]
        for one in old:
            if not one.calls:  # it would connect again and again, with a certificate that ends
                one.channel.close()

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """Return a callable that calls over the newest channel; so do the others."""
        return _Renewed(self, lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """See unary_unary."""
        return _Renewed(self, lambda channel: channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """See unary_unary."""
        return _Renewed(self, lambda channel: channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """See unary_unary."""
        return _Renewed(self, lambda channel: channel.stream_stream(*arguments, **named))

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Hear of the channel that is newest now."""
        self._opened[-1].channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Hear no more."""
        for one in self._opened:
            one.channel.unsubscribe(callback)

    def close(self) -> None:
        """Close all of them."""
        for one in self._opened:
            one.channel.close()

    def __enter__(self) -> RenewingChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Renewed:
    """A method of the newest channel."""

    def __init__(self, channel: RenewingChannel, make: Callable[[grpc.Channel], Any]) -> None:
        self._channel = channel
        self._make = make
        self._made: tuple[_Opened | None, Any] = (None, None)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(lambda method: method(*arguments, **named))

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        return self._call(lambda method: method.with_call(*arguments, **named))

    def future(self, *arguments: Any, **named: Any) -> Any:
        return self._call(lambda method: method.future(*arguments, **named))

    def _call(self, start: Callable[[Any], Any]) -> Any:
        opened = self._channel.begin()
        goes_on = False
        try:
            answer = start(self._method_of(opened))
            goes_on = isinstance(answer, grpc.RpcContext) and answer.add_callback(lambda: self._channel.end(opened))
            return answer
        finally:
            if not goes_on:
                self._channel.end(opened)

    def _method_of(self, opened: _Opened) -> Any:
        made_for, method = self._made
        if made_for is not opened:
            method = self._make(opened.channel)
            self._made = (opened, method)
        return method
