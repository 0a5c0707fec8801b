"""Bounds the calls in flight. Ours rather than gRPC's, which refuses health probes too and so has full pods killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from klinecast.errors import QuotaViolation, ResourceExhausted
from services.runtime.interceptors.call import Around, Call

RETRY_AFTER_S = 0.5


def limit_around(max_calls: int | None) -> Around:
    """Return an around that refuses at once what exceeds `max_calls`; none means no bound."""
    running = 0

    @asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        nonlocal running
        if max_calls is None or call.method.service.startswith("grpc."):
            yield
            return
        if running >= max_calls:
            raise _too_many(max_calls)
        running += 1
        try:
            yield
        finally:
            running -= 1

    return around


def _too_many(max_calls: int) -> ResourceExhausted:
    quota = QuotaViolation(subject="service", description=f"at most {max_calls} calls run at once in this process")
    return ResourceExhausted("too many calls at once", quota=[quota], retry_after_s=RETRY_AFTER_S)
