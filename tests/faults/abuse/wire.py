"""HTTP/2 by hand: what no gRPC client would send, as fast as a socket takes it, and the statuses that come back."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

Metadata = Iterable[tuple[str, str]]
_READ = 65_536
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW = 0, 1, 3, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CANCEL = struct.pack(">I", 8)


def message(payload: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """Return a gRPC message with its prefix, which may lie about the length."""
    return struct.pack(">BI", compressed, len(payload) if length is None else length) + payload


def request_headers(path: str, metadata: Metadata = ()) -> list[tuple[str, str]]:
    """Return the headers of a gRPC call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *metadata,
    ]


@dataclass(slots=True)
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None
    """The HTTP/2 error code, when the server reset the stream or closed the connection."""

    @property
    def status(self) -> str:
        """The gRPC status code as a number, or how the stream ended without one."""
        return self.headers.get("grpc-status") or f"reset {self.reset}"


class ForeignClient:
    """One connection of a client that is not gRPC's and need not be polite."""

    def __init__(self, target: str) -> None:
        self._socket = connect(target)
        self._http = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        )
        self._http.initiate_connection()
        self._flush()

    def __enter__(self) -> ForeignClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(
        self, path: str, body: bytes, *, metadata: Metadata = (), ends: bool = True, timeout_s: float = 10.0
    ) -> Answer:
        """Send one request, as far as the server takes it, and return what it says. TimeoutError."""
        stream, answer = self._http.get_next_available_stream_id(), Answer()
        self._http.send_headers(stream, request_headers(path, metadata))
        deadline, left = time.monotonic() + timeout_s, memoryview(body)
        over = False
        while not over:
            left = self._send(stream, left, ends=ends) if answer.reset is None else left
            over = self._receive(stream, answer, deadline)
        return answer

    def _send(self, stream: int, left: memoryview, *, ends: bool) -> memoryview:
        while len(left) and (room := self._http.local_flow_control_window(stream)) > 0:
            size = min(room, self._http.max_outbound_frame_size, len(left))
            self._http.send_data(stream, bytes(left[:size]), end_stream=ends and size == len(left))
            left = left[size:]
        self._flush()
        return left

    def _receive(self, stream: int, answer: Answer, deadline: float) -> bool:
        """Take in what arrives; tell whether the stream is over."""
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        data = self._socket.recv(_READ)
        over = not data
        for event in self._http.receive_data(data) if data else ():
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                answer.headers |= dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                answer.reset, over = int(event.error_code), True
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                over = True
        self._flush()
        return over

    def _flush(self) -> None:
        try:
            self._socket.sendall(self._http.data_to_send())
        except OSError:  # the server has closed; what it said before is still to be read
            return


class StreamOpener:
    """Opens streams of one method as prepared bytes, thousands a second for little CPU of its own."""

    def __init__(self, target: str, path: str, request: bytes, metadata: Metadata = ()) -> None:
        self._socket = connect(target)
        self._block = b"".join(_literal(name, value) for name, value in request_headers(path, metadata))
        self._message = message(request)
        self._next, self._received = 1, b""
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0))

    def open(self, count: int) -> range:
        """Open so many streams, each with its one request; return their numbers."""
        streams = range(self._next, self._next + 2 * count, 2)
        self._next = streams.stop
        headers, data = (_HEADERS, _END_HEADERS, self._block), (_DATA, _END_STREAM, self._message)
        parts = [_frame(kind, flags, stream, payload) for stream in streams for kind, flags, payload in (headers, data)]
        self._socket.sendall(b"".join(parts))
        return streams

    def reset(self, streams: Iterable[int]) -> None:
        """Cancel streams."""
        self._socket.sendall(b"".join(_frame(_RESET, 0, stream, _CANCEL) for stream in streams))

    def drain(self, timeout_s: float = 0.0) -> None:
        """Take in what the server sent, as a living client would: answer pings, give the window back."""
        while select.select([self._socket], [], [], timeout_s)[0]:
            data = self._socket.recv(_READ)
            if not data:
                return
            self._received += data
            self._answer()
            timeout_s = 0.0

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _answer(self) -> None:
        parts, view = [], self._received
        while len(view) >= 9 and len(view) >= (end := 9 + int.from_bytes(view[:3], "big")):
            kind, flags, payload, view = view[3], view[4], view[9:end], view[end:]
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                parts.append(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind == _DATA and payload:
                parts.append(_frame(_WINDOW, 0, 0, struct.pack(">I", len(payload))))
        self._received = view
        self._socket.sendall(b"".join(parts))


def connect(target: str) -> socket.socket:
    """Open a TCP connection."""
    host, _, port = target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _literal(name: str, value: str) -> bytes:
    """Encode one header without indexing: the block is the same for every stream."""
    assert max(len(name), len(value)) < 127
    return b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
