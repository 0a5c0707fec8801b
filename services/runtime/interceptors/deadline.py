"""A unary call without a deadline gets one; what is asked of others for a call knows when it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from klinecast.errors import DeadlineExceeded
from services.runtime.deadlines import call_deadline
from services.runtime.interceptors.call import Call

DEFAULT_DEADLINE_S = 30.0


@asynccontextmanager
async def deadline_around(call: Call) -> AsyncIterator[None]:
    """End a unary call after DEFAULT_DEADLINE_S when its caller named no deadline; streams need none."""
    remaining = call.context.time_remaining()
    if remaining is not None:
        # Not reset: the task and its context end with the call.
        call_deadline.set(time.monotonic() + remaining)
    if call.method.type != "unary" or remaining is not None:
        yield
        return
    call_deadline.set(time.monotonic() + DEFAULT_DEADLINE_S)
    limit = asyncio.timeout(DEFAULT_DEADLINE_S)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise DeadlineExceeded(f"the call took longer than {DEFAULT_DEADLINE_S:g} s") from None
        raise
