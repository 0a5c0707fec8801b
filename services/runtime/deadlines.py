"""When the caller of the current call gives up: what is asked of other services for it must not outlive that."""

from __future__ import annotations

import time
from contextvars import ContextVar

call_deadline: ContextVar[float | None] = ContextVar("call_deadline", default=None)
"""By time.monotonic(); None for calls without one and for work that nobody waits for."""
_LEAST_S = 0.001


def within_deadline(timeout_s: float | None) -> float | None:
    """Return a timeout that ends no later than the current call."""
    deadline = call_deadline.get()
    if deadline is None:
        return timeout_s
    left_s = max(deadline - time.monotonic(), _LEAST_S)
    return left_s if timeout_s is None else min(timeout_s, left_s)
