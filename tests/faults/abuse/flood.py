"""python -m tests.faults.abuse.flood: opens streams at a rate, a process of its own so that it costs the victim no GIL.

Prints one JSON line at its end: streams opened, per second, and the CPU seconds that it took itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tests.faults.abuse.wire import StreamOpener

_STEP_S = 0.005


@dataclass(frozen=True, slots=True)
class Flood:
    """What is opened."""

    target: str
    path: str
    request: bytes
    per_second: int
    linger_s: float | None = None
    """When a stream is cancelled after it was opened; never by default."""
    connections: int = 1
    total: int = 2**30
    """How many at most."""
    tenant: str = "attacker"

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, float]]:
        """Flood for the length of the block; what it did stands in the yielded dictionary at its end."""
        figures: dict[str, float] = {}
        arguments = json.dumps(asdict(self) | {"request": self.request.hex()})
        command = [sys.executable, "-m", "tests.faults.abuse.flood", arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it is under way
            try:
                yield figures
            finally:
                assert process.stdin is not None
                process.stdin.close()
                figures |= json.loads(process.stdout.read())


def main() -> None:
    """Flood until standard input ends."""
    parser = argparse.ArgumentParser(prog="tests.faults.abuse.flood", description=__doc__)
    parser.add_argument("flood", help="the fields of Flood as JSON")
    fields = json.loads(parser.parse_args().flood)
    flood = Flood(**fields | {"request": bytes.fromhex(fields["request"])})
    metadata = [("klinecast-tenant", flood.tenant)]
    openers = [StreamOpener(flood.target, flood.path, flood.request, metadata) for _ in range(flood.connections)]
    print("under way", flush=True)
    began = time.monotonic()
    opened = _open_all(flood, openers, began)
    seconds = time.monotonic() - began
    figures = {"opened": opened, "per_second": round(opened / seconds), "cpu_s": round(sum(os.times()[:2]), 2)}
    print(json.dumps(figures), flush=True)


def _open_all(flood: Flood, openers: list[StreamOpener], began: float) -> int:
    opened, lingering = 0, deque[tuple[float, StreamOpener, range]]()
    with contextlib.suppress(OSError):  # the server may hang up on us
        while not select.select([sys.stdin], [], [], _STEP_S)[0]:
            now = time.monotonic()
            due = min(int((now - began) * flood.per_second), flood.total) - opened
            shares = [due // len(openers) + (index < due % len(openers)) for index in range(len(openers))]
            for opener, share in zip(openers, shares, strict=True):
                if share:
                    lingering.append((now, opener, opener.open(share)))
                    opened += share
            openers = openers[due % len(openers) :] + openers[: due % len(openers)]  # the next ones take the rest
            while flood.linger_s is not None and lingering and lingering[0][0] + flood.linger_s <= now:
                _, opener, streams = lingering.popleft()
                opener.reset(streams)
            for opener in openers:
                opener.drain()
    return opened


if __name__ == "__main__":
    main()
