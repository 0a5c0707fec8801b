"""What a tenant that does nothing wrong notices: the latency of its calls, quiet and while another misbehaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from klinecast.errors import KlinecastError


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one stretch of calls."""

    calls: int
    failed: int
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, {self.failed} of {self.calls} failed"


def measure(call: Callable[[], object], seconds: float, *, per_second: float = 50.0) -> Latency:
    """Call at a steady pace; a call is as late as it comes back after it was due, queueing behind the last one too."""
    took, failed = [], 0
    began = time.monotonic()
    while (due := began + len(took) / per_second) < began + seconds:
        time.sleep(max(due - time.monotonic(), 0.0))
        if time.monotonic() > began + 3 * seconds:  # hopelessly behind; what was seen says so
            break
        try:
            call()
        except KlinecastError:
            failed += 1
        took.append(time.monotonic() - due)
    p50, p99 = np.percentile(np.array(took) * 1000, (50, 99))
    return Latency(len(took), failed, float(p50), float(p99))
