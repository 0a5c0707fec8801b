"""How the SDK calls: deadlines, the tenant, retries while a service is away, and resumption of streams."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from klinecast.client._errors import translated
from klinecast.client._security import TokenFile
from klinecast.errors import DeadlineExceeded, KlinecastError, Unauthenticated, Unavailable

_T = TypeVar("_T")
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
TENANT_KEY = "klinecast-tenant"


class Caller:
    """Deadline and metadata of the calls of one client."""

    def __init__(self, tenant: str | None, timeout_s: float, token: TokenFile | None = None) -> None:
        self._tenant = tenant
        self._token = token or TokenFile(None)
        self.timeout_s = timeout_s
        self._closed = threading.Event()

    def close(self) -> None:
        """Make no call again."""
        self._closed.set()

    def metadata(self, tenant: str | None = None) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call; a tenant given here wins over the client's."""
        name, token = tenant or self._tenant, self._token.read()
        named = ((TENANT_KEY, name),) if name else ()
        return (*named, ("authorization", f"Bearer {token}")) if token else named

    def unary(self, call: Callable[..., _T], request: object, *, tenant: str | None = None) -> _T:
        """Make an idempotent unary call, again while the service is away, all within one deadline."""
        deadline, pause = time.monotonic() + self.timeout_s, _FIRST_PAUSE_S
        away: Unavailable | None = None
        while True:
            left = deadline - time.monotonic()
            try:
                with translated():
                    return call(request, timeout=max(left, 0.001), metadata=self.metadata(tenant))
            except DeadlineExceeded:
                if away is not None:  # says more than that the last try took too long
                    raise away from None
                raise
            except Unavailable as error:
                if time.monotonic() + pause >= deadline or self._closed_within(pause):
                    raise
                away, pause = error, min(2 * pause, _LONGEST_PAUSE_S)

    def stream(self, call: Callable[..., Any], request: object, *, tenant: str | None = None) -> Iterator[Any]:
        """Yield the messages of a server stream; an abandoned iterator cancels the call."""
        with translated():
            responses = call(request, metadata=self.metadata(tenant))
            try:
                yield from responses
            finally:
                responses.cancel()

    def upload(self, call: Callable[..., _T], requests: Iterator[Any]) -> _T:
        """Send a stream of requests; what making one of them raised comes through instead of gRPC's word for it."""
        failed: list[Exception] = []

        def guarded() -> Iterator[Any]:
            try:
                yield from requests
            except Exception as error:
                failed.append(error)
                raise

        try:
            with translated():
                return call(guarded(), metadata=self.metadata())
        except KlinecastError:
            if failed:
                raise failed[0] from None
            raise

    def resuming(self, open_stream: Callable[[], Iterator[_T]]) -> Iterator[_T]:
        """Yield from streams opened one after another, each where the last was cut, until timeout_s bring no message.

        `open_stream` must open where the last message left off. A stream whose token expired goes on with a newer one.
        """
        silent_since, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            token = self._token.read()
            try:
                for message in open_stream():
                    silent_since, pause = time.monotonic(), _FIRST_PAUSE_S
                    yield message
                return
            except Unauthenticated:
                if self._token.read() == token:
                    raise
            except Unavailable:
                if time.monotonic() - silent_since >= self.timeout_s or self._closed_within(pause):
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _closed_within(self, pause_s: float) -> bool:
        """Pause before the next try; tell whether the client was closed."""
        return self._closed.wait(pause_s * random.uniform(0.5, 1.0))
