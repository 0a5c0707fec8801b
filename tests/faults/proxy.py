"""A TCP proxy on loopback that cuts connections, after a number of bytes or at once, or lets them go silent."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg

from services.runtime.database import libpq_url

_CHUNK = 16_384
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


@dataclass(eq=False, slots=True)
class _Pair:
    """A connection of a client and ours to the target; each direction flows while its event is set."""

    client: socket.socket
    server: socket.socket
    to_client: threading.Event = field(default_factory=threading.Event)
    to_server: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.heal()

    def heal(self) -> None:
        self.to_client.set()
        self.to_server.set()

    @property
    def ends(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.server


class Proxy:
    """Forwards to a target that may change, host:port or the path of a Unix socket; counts what it cut."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.cuts = 0
        self._left: int | None = None
        self._lock = threading.Lock()
        self._taking = threading.Event()
        self._taking.set()
        self._pairs: set[_Pair] = set()
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
            pair.heal()
            for end in pair.ends:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)

    def swallow(self, *, to_client: bool = True, to_server: bool = True, new: bool = False) -> int:
        """Let what connections carry disappear, neither end being told; return how many. new: later ones hang too."""
        with self._lock:
            pairs = tuple(self._pairs)
        if new:
            self._taking.clear()
        for pair in pairs:
            for swallowed, flowing in ((to_client, pair.to_client), (to_server, pair.to_server)):
                if swallowed:
                    flowing.clear()
        return len(pairs)

    def heal(self) -> None:
        """Forward again, first what was held back."""
        self._taking.set()
        with self._lock:
            pairs = tuple(self._pairs)
        for pair in pairs:
            pair.heal()

    def ports(self) -> set[int]:
        """Return the ports of our ends of the connections to the target."""
        with self._lock:
            return {pair.server.getsockname()[1] for pair in self._pairs}

    def pick(self) -> str | None:
        """Return where the next connection goes; None refuses it."""
        return self.target

    def close(self) -> None:
        """Stop listening, cut everything, wait for the threads."""
        self._taking.set()
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
            self._taking.wait()
            server = self._connect()
            if server is None:
                client.close()
                continue
            for end in (client, server):
                if end.family != socket.AF_UNIX:  # what is held back until it is acknowledged costs 40 ms a message
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
            self._start(self._forward, pair, True)
            self._start(self._forward, pair, False)

    def _connect(self) -> socket.socket | None:
        target = self.pick()
        if target is None:
            return None
        try:
            server = _dial(target)
        except OSError:
            return None
        server.settimeout(None)
        return server

    def _forward(self, pair: _Pair, to_client: bool) -> None:
        source, sink = (pair.server, pair.client) if to_client else (pair.client, pair.server)
        flowing = pair.to_client if to_client else pair.to_server
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                flowing.wait()
                kept = self._allow(len(data)) if to_client else len(data)
                sink.sendall(data[:kept])
                if kept < len(data):
                    self.cut()
        flowing.wait()  # an end of one side is news to the other
        with self._lock:
            self._pairs.discard(pair)
        pair.heal()
        for end in pair.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if to_client:  # the other direction ends with this one; its last use of the sockets is a failed call
            for end in pair.ends:
                end.close()

    def _allow(self, size: int) -> int:
        with self._lock:
            if self._left is None:
                return size
            kept = min(size, self._left)
            self._left -= kept
            return kept


def _dial(target: str) -> socket.socket:
    if target.startswith("/"):
        server = socket.socket(socket.AF_UNIX)
        server.connect(target)
        return server
    host, _, port = target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


@contextlib.contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    """Yield a proxy; nothing of it is left at the end."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def proxy_to_database(url: str) -> Iterator[tuple[Proxy, str]]:
    """Yield a proxy to the server of a database URL, and the URL of the same database through it."""
    with psycopg.connect(libpq_url(url)) as connection:
        found = connection.info
        socket_path = f"{found.host}/.s.PGSQL.{found.port}"
        user, name = found.user, found.dbname
    with proxy_to(socket_path) as proxy:
        yield proxy, f"postgresql://{user}@{proxy.address}/{name}"
