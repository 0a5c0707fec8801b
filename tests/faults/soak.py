"""python -m tests.faults.soak: chaos for as long as it takes to finish so many backtests, on one executor or both."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import postgres
from tests.faults.baseline import find_leaks, measure
from tests.faults.chaos import MAX_RUNNING, SETTINGS, Chaos, Report
from tests.faults.deployment import EXECUTORS, deploy


def main() -> int:
    """Run it; 0 when nothing was lost, doubled, unexpected or wrong, no limit passed and nothing leaked."""
    parser = argparse.ArgumentParser(prog="tests.faults.soak", description=__doc__)
    parser.add_argument("--executor", choices=EXECUTORS, action="append", help="default: each in turn")
    parser.add_argument("--backtests", type=int, default=1_000)
    parser.add_argument("--per-second", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with postgres.make_home() as home:
        problems = [one for executor in options.executor or EXECUTORS for one in _run(home, executor, options)]
    return 1 if problems else 0


def _run(home: Path, executor: str, options: argparse.Namespace) -> list[str]:
    """Run it on an executor; print and return what is wrong."""
    with deploy(home, executor, **SETTINGS) as deployment:
        before = measure(deployment)
        chaos = Chaos(deployment.suite, deployment.server, deployment.url, deployment.broker, options.seed)
        report = chaos.run(options.backtests, options.per_second, lambda text: print(f"{executor} {text}", flush=True))
        problems = [*_find_problems(report), *find_leaks(before, measure(deployment))]
    print(f"{executor}: {report}", *problems, sep="\n  ", flush=True)
    return problems


def _find_problems(report: Report) -> Iterator[str]:
    for kind in ("lost", "doubled", "unexpected", "wrong"):
        for one in getattr(report.verdict, kind)[:20]:
            yield f"{kind}: {one}"
    if report.most_running > MAX_RUNNING:
        yield f"{report.most_running} ran at once, at most {MAX_RUNNING} may"
    if not report.faults.get("postgres") or not set(report.faults) - {"postgres"}:
        yield f"too little happened: {dict(report.faults)}"


if __name__ == "__main__":
    sys.exit(main())
