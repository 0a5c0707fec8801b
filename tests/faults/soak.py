"""python -m tests.faults.soak: chaos for as long as it takes to finish so many backtests, on one executor or both."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests import postgres
from tests.faults.chaos import Chaos, Report
from tests.faults.deployment import EXECUTORS, deploy


def main() -> int:
    """Run it; 0 when nothing was lost, doubled, unexpected or wrong."""
    parser = argparse.ArgumentParser(prog="tests.faults.soak", description=__doc__)
    parser.add_argument("--executor", choices=EXECUTORS, action="append", help="default: each in turn")
    parser.add_argument("--backtests", type=int, default=1_000)
    parser.add_argument("--per-second", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with postgres.make_home() as home:
        reports = [_run(home, executor, options) for executor in options.executor or EXECUTORS]
    return 0 if all(report.verdict.clean and report.faults.get("postgres") for report in reports) else 1


def _run(home: Path, executor: str, options: argparse.Namespace) -> Report:
    with deploy(home, executor) as deployment:
        chaos = Chaos(deployment.suite, deployment.server, deployment.url, deployment.broker, options.seed)
        report = chaos.run(options.backtests, options.per_second, lambda text: print(f"{executor} {text}", flush=True))
    print(f"{executor}: {report}", flush=True)
    for kind in ("lost", "doubled", "unexpected", "wrong"):
        for one in getattr(report.verdict, kind)[:20]:
            print(f"  {kind}: {one}", flush=True)
    return report


if __name__ == "__main__":
    sys.exit(main())
