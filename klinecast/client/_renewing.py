"""A channel with a certificate of its own that changes: gRPC reads it once, so a new one needs a new connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

CHECK_S = 1.0


class RenewingChannel(grpc.Channel):
    """Opens a channel anew when what it was opened with has changed; calls in flight stay where they are."""

    def __init__(self, open_channel: Callable[[], grpc.Channel], stamp: Callable[[], object]) -> None:
        """Open it; `stamp` changes when the next one would differ."""
        self._open_channel = open_channel
        self._stamp_now = stamp
        self._lock = threading.Lock()
        self._stamp = stamp()
        self._checked = time.monotonic()
        self._opened = [open_channel()]

    def newest(self) -> tuple[int, grpc.Channel]:
        """Return the channel for a new call, and its number."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked >= CHECK_S:
                self._checked, stamp = now, self._stamp_now()
                if stamp != self._stamp:
                    self._opened.append(self._open_channel())
                    self._stamp = stamp
            return len(self._opened), self._opened[-1]

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
        self.newest()[1].subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Hear no more."""
        for channel in self._opened:
            channel.unsubscribe(callback)

    def close(self) -> None:
        """Close all of them."""
        for channel in self._opened:
            channel.close()

    def __enter__(self) -> RenewingChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Renewed:
    """A method of the newest channel."""

    def __init__(self, channel: RenewingChannel, make: Callable[[grpc.Channel], Any]) -> None:
        self._channel = channel
        self._make = make
        self._made: tuple[int, Any] = (0, None)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._newest()(*arguments, **named)

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        return self._newest().with_call(*arguments, **named)

    def future(self, *arguments: Any, **named: Any) -> Any:
        return self._newest().future(*arguments, **named)

    def _newest(self) -> Any:
        number, channel = self._channel.newest()
        if self._made[0] != number:
            self._made = (number, self._make(channel))
        return self._made[1]
