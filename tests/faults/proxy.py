"""A TCP proxy on loopback that cuts connections, after a number of bytes or at once."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_CHUNK = 16_384
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


class Proxy:
    """Forwards to a target that may change; counts what it cut."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.cuts = 0
        self._left: int | None = None
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def cut_after(self, size: int) -> None:
        """Reset every connection once so many more bytes went to the clients."""
        with self._lock:
            self._left = size

    def cut(self) -> None:
        """Reset every connection now."""
        with self._lock:
            self._left = None
            pairs, self._pairs = self._pairs, set()
        self.cuts += bool(pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening, cut everything, wait for the threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = self.target.rpartition(":")
            try:
                server = socket.create_connection((host, int(port)), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            self._start(self._forward, server, client, pair, True)
            self._start(self._forward, client, server, pair, False)

    def _forward(
        self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket], counted: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                kept = self._allow(len(data)) if counted else len(data)
                sink.sendall(data[:kept])
                if kept < len(data):
                    self.cut()
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if counted:  # the other direction ends with this one; its last use of the sockets is a failed call
            for end in pair:
                end.close()

    def _allow(self, size: int) -> int:
        with self._lock:
            if self._left is None:
                return size
            kept = min(size, self._left)
            self._left -= kept
            return kept


@contextlib.contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    """Yield a proxy; nothing of it is left at the end."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
