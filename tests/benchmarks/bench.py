"""What every benchmark shares: a durable deployment, medians, a printed table and build/bench/<target>.json."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from services.local.postgres import PostgresServer
from tests import postgres
from tests.broker import run_broker
from tests.suite import Suite, run_suite

OUT = Path(__file__).resolve().parents[2] / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its yardstick, measured in the same run."""

    name: str
    value: float
    unit: str
    yardstick: str
    ratio: float | None
    """value / yardstick; None where there is none."""


@contextlib.contextmanager
def durable_suite(*, executor: str = "local", **settings: str) -> Iterator[Suite]:
    """Yield a deployment on a Postgres that flushes every commit to disk, as in production."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(postgres.make_home())
        server = stack.enter_context(PostgresServer(home, durable=True))
        name = postgres.build_template(server, name="bench")
        if executor == "celery":
            broker = stack.enter_context(run_broker(home / "broker"))
            settings |= {"EXECUTOR": executor, "BROKER_URL": broker.url}
        yield stack.enter_context(run_suite(home, server.url(name), **settings))


def median_ms(call: Callable[[], object], times: int) -> float:
    """Return the median milliseconds of a call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many in a hundred do not exceed."""
    return statistics.quantiles(values, n=100)[percent - 1]


def publish(target: str, rows: list[Row]) -> None:
    """Print the table and write it for machines."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{target}.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(f"\n{'name':<34}{'value':>12} {'unit':<6}{'ratio':>9}  yardstick")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        print(f"{row.name:<34}{row.value:>12.3f} {row.unit:<6}{ratio:>9}  {row.yardstick}")


def judge(rows: Sequence[Row], most: Mapping[str, float]) -> int:
    """Print which ratios are above what is promised of them; return the exit code."""
    broken = [row for row in rows if row.ratio is not None and row.ratio > most.get(row.name, row.ratio)]
    for row in broken:
        print(f"broken: {row.name} is {row.ratio:.2f} times its yardstick; {most[row.name]} is promised")
    return 1 if broken else 0
