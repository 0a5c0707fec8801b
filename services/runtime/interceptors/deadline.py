"""A unary call without a deadline gets one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from klinecast.errors import DeadlineExceeded
from services.runtime.interceptors.call import Call

DEFAULT_DEADLINE_S = 30.0


@asynccontextmanager
async def deadline_around(call: Call) -> AsyncIterator[None]:
    """End a unary call after DEFAULT_DEADLINE_S when its caller named no deadline; streams need none."""
    if call.method.type != "unary" or _remaining(call) is not None:
        yield
        return
    limit = asyncio.timeout(DEFAULT_DEADLINE_S)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise DeadlineExceeded(f"the call took longer than {DEFAULT_DEADLINE_S:g} s") from None
        raise


def _remaining(call: Call) -> float | None:
    return call.context.time_remaining()
