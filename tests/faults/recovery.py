"""python -m tests.faults.recovery: what everything leans on goes away for 1, 20 and 60 s, and comes back.

Measured is what callers see: when the first call succeeds that needs what was away, counted from the moment it could.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from klinecast.client import Client
from klinecast.errors import KlinecastError
from services.local.running import is_serving
from tests import postgres
from tests.factories import make_config
from tests.faults.deployment import Deployment, deploy

RECOVERED_S = 2.0
AWAY = ("postgres", "data", "results", "broker")
_TRY_S = 0.02
_GIVEN_UP_S, _PATIENCE_S = 30.0, 15.0
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long after the return of what was away each kind of call succeeded again."""

    away: str
    seconds: float
    first_ok: Mapping[str, float]

    def __str__(self) -> str:
        calls = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.first_ok.items())
        return f"{self.away} away for {self.seconds:g} s; s to the first OK: {calls}"


def measure(deployment: Deployment, away: str, seconds: float) -> Recovery:
    """Take a part of a deployment away while callers go on calling, bring it back, and wait until each is served."""
    with deployment.suite.client(timeout_s=_PATIENCE_S) as patient, ThreadPoolExecutor(16) as pool:
        calls = dict(_calls_that_need(deployment, away, patient))
        for call in calls.values():
            call()
        bring_back, returned = _take_away(deployment, away), threading.Event()
        deadline = time.monotonic() + seconds + _GIVEN_UP_S
        waits = {name: pool.submit(_first_ok, call, returned, deadline) for name, call in calls.items()}
        time.sleep(seconds)
        bring_back()
        came_back = time.monotonic()
        returned.set()
        first_ok = {name: wait.result(_GIVEN_UP_S) - came_back for name, wait in waits.items()}
    return Recovery(away, seconds, first_ok)


def _calls_that_need(deployment: Deployment, away: str, client: Client) -> Iterator[tuple[str, Call]]:
    """Yield calls of a patient client that cannot succeed without what is away."""
    suite, config = deployment.suite, make_config(client, klines=200)
    kept = list(client.run_backtest(config))[-1].backtest_id
    if away in ("postgres", "data"):
        yield "read a series", lambda: client.get_series(config.all_series[0])
        yield "stream klines", lambda: client.load_klines(config.all_series[0], config.start_ms, config.end_ms)
    if away in ("postgres", "results"):
        yield "read a result", lambda: client.get_result(kept)
    if away in ("postgres", "data"):
        yield "create a backtest", lambda: client.create_backtest(config)
    if away == "postgres":
        for name in ("data", "results", "backtest"):
            yield f"{name} is ready", lambda name=name: _require(is_serving(suite.target(name)))  # type: ignore[misc]
    if away != "postgres":
        yield "run a backtest", lambda: _require(list(client.run_backtest(config))[-1].state == "SUCCEEDED")


def _take_away(deployment: Deployment, away: str) -> Call:
    """Kill it; return what brings it back, and returns when it could serve."""
    if away == "postgres":
        deployment.server.kill()
        return deployment.server.start
    if away == "broker":
        assert deployment.broker is not None
        deployment.broker.kill()
        return deployment.broker.start
    deployment.suite.kill(away)
    return lambda: deployment.suite.start(away)


def _first_ok(call: Call, returned: threading.Event, deadline: float) -> float:
    """Call until it succeeds, what was away being there; return when."""
    while True:
        try:
            call()
            if returned.is_set():
                return time.monotonic()
        except (KlinecastError, AssertionError):
            assert time.monotonic() < deadline
        time.sleep(_TRY_S)


def _require(true: bool) -> None:
    assert true


def main() -> int:
    """Run it; 0 when everything was back in time."""
    parser = argparse.ArgumentParser(prog="tests.faults.recovery", description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 20.0, 60.0], help="default: 1 20 60")
    options = parser.parse_args()
    late = 0
    with postgres.make_home() as home, deploy(home, "celery") as deployment:
        for seconds in options.seconds:
            for away in AWAY:
                recovery = measure(deployment, away, seconds)
                late += max(recovery.first_ok.values()) > RECOVERED_S
                print(recovery, flush=True)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
