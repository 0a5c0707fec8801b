"""python -m tests.faults.abuse: every row of abuse at its full figures; exits 1 when one does not hold."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator

from tests import postgres
from tests.faults.abuse import inputs
from tests.faults.abuse.floods import Floods
from tests.faults.abuse.row import Row, table
from tests.suite import Suite, run_suite


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="tests.faults.abuse", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="each stretch of measuring (8)")
    parser.add_argument("--fuzz-seconds", type=float, default=180.0)
    parser.add_argument("--only", default="", help="rows whose name starts with this")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the services")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    rows = []
    with postgres.make_home() as home, postgres.run_server(home) as server:
        url = server.url(postgres.build_template(server))
        with run_suite(home / "suite", url, WORKERS="0", **dict(one.split("=") for one in options.set)) as suite:
            for row in _rows(suite, options):
                print(row, flush=True)
                rows.append(row)
    print(f"\n{table(rows)}")
    return 0 if all(row.held for row in rows) else 1


def _rows(suite: Suite, options: argparse.Namespace) -> Iterator[Row]:
    with suite.client(tenant="victim") as victim, suite.client(tenant="attacker") as attacker:
        floods = Floods(suite, victim, attacker, options.seconds)
        steps = {
            "G": lambda: [*inputs.bombs(suite), inputs.garbage(suite), *inputs.heavy(suite)],
            "control": lambda: [floods.elsewhere(4_000)],
            "C10": lambda: [floods.memory_of_cancels(40_000)],
            "C11": lambda: [floods.open_and_cancel(4_000, linger_s) for linger_s in (0.0, 0.02)],
            "C13": lambda: [floods.cancel_behind_watches(100), floods.cancel_behind_watches(1_500)],
            "C14": lambda: [floods.mute(300)],
            "C15": lambda: [floods.few_descriptors(400)],
            "flood": lambda: [
                floods.unary(rate, same_method=same) for rate in (1_000, 4_000) for same in (False, True)
            ],
            "H12": lambda: [floods.watches(10_000)],
            "C1": lambda: [floods.slow_readers(50, 60.0)],
            "G13": lambda: [inputs.Fuzz(suite, options.seed).run(options.fuzz_seconds)],
        }
        for name, step in steps.items():
            if name.startswith(options.only):
                yield from step()


if __name__ == "__main__":
    sys.exit(main())
