"""The boundary of expiry: reads around the very instant a result expires, while sweepers race and clocks are wrong.

make soak-expiry runs three replicas, the application's clock an hour early in one and an hour late in another. Half of
the reads are GetResult, half CheckResults, which tells its instant also of what is gone. It prints what was served late
(OK at or after the expiry by the database's clock) and what was gone early (NOT_FOUND before it).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import libfaketime
import psycopg

from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.api.results.v1.results_service_pb2_grpc import ResultsServiceStub
from services.runtime.database import libpq_url
from tests import postgres
from tests.results import Replica, make_header, run_replicas

READS_EACH, AIMED = 5, 3
"""Of each result, and how many of them are aimed at its expiry; the others are around it."""
NEAR_SHARE = 0.1
"""A run counts where so many of its reads were within a millisecond of the expiry."""
_ROUND, _APART_S, _APART_MOST_S = 400, 1 / 110, 1 / 40
"""Results a round, and how far apart their expiries are at first: as the readers keep up, so it becomes."""
_LEAD_S, _LATE_S = 0.3, 0.004
_MOST = 4
"""A machine on which few reads are near reads so many times what was asked, at most."""
_WORKERS = 3
_NEAR_S = 0.001

_INSERT = """
INSERT INTO results.results (tenant_id, result_id, save_id, fence, checksum, strategy, labels, statistics, header,
                             stored_bytes, create_time, expire_time)
SELECT 'default', id, gen_random_uuid(), 1, '', 'dual_ma', '{}', '{}', %(header)s, 100, clock_timestamp(),
  to_timestamp(%(start)s) + make_interval(secs => nth * %(apart_s)s)
FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS made (id, nth) RETURNING result_id, expire_time
"""


@dataclass(slots=True)
class Outcome:
    """What the reads saw."""

    reads: int = 0
    served: int = 0
    gone: int = 0
    near: int = 0
    """Reads that were in flight within a millisecond of the expiry."""
    late: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)

    def note(self, result_id: str, expiry: float, sent: float, read_time: float | None) -> None:
        """Judge one GetResult; read_time is None where it was NOT_FOUND."""
        back = time.time()
        self.reads += 1
        if read_time is None:
            self.gone += 1
            self.near += sent <= expiry + _NEAR_S
            if back < expiry:
                self.early.append(f"{result_id}: NOT_FOUND {1e3 * (expiry - back):.3f} ms before")
        else:
            self._note_served(result_id, expiry, sent, read_time)

    def note_checked(self, result_id: str, expiry: float, sent: float, read_time: float, *, kept: bool) -> None:
        """Judge one CheckResults, which says when it looked also where it found nothing."""
        self.reads += 1
        if kept:
            self._note_served(result_id, expiry, sent, read_time)
            return
        self.gone += 1
        self.near += read_time - expiry <= _NEAR_S
        if read_time < expiry:
            self.early.append(f"{result_id}: not kept {1e3 * (expiry - read_time):.3f} ms before")

    def _note_served(self, result_id: str, expiry: float, sent: float, read_time: float) -> None:
        self.served += 1
        self.near += expiry - read_time <= _NEAR_S
        if read_time >= expiry or sent >= expiry:
            self.late.append(f"{result_id}: OK {1e3 * (read_time - expiry):.3f} ms after")


def clock_off(hours: int) -> dict[str, str]:
    """Return the environment in which a process sees its wall clock off by so many hours; timers stay right."""
    library = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{hours:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def environments() -> list[dict[str, str]]:
    """Return those of three replicas that sweep all the time: one right, one an hour ahead, one an hour behind."""
    sweeping = {"KLINECAST_SWEEP_EVERY_S": "0.02"}
    return [sweeping, sweeping | clock_off(+1), sweeping | clock_off(-1)]


def run(replicas: Sequence[Replica], url: str, *, reads: int, seed: int) -> Outcome:
    """Let results expire one after another and read each around its expiry, as fast as the machine keeps up with."""
    return asyncio.run(_run([one.service.target for one in replicas], url, reads, random.Random(seed)))


async def _run(targets: Sequence[str], url: str, reads: int, chance: random.Random) -> Outcome:
    outcome, flight, apart_s = Outcome(), _Flight(), _APART_S
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(target)) for target in targets]
        stubs = [ResultsServiceStub(channel) for channel in channels]
        while outcome.reads < reads or (outcome.near < NEAR_SHARE * reads and outcome.reads < _MOST * reads):
            results = insert(url, _ROUND, apart_s)
            late_s = await _read_all(stubs, sorted(_plan(results, chance)), chance, outcome, flight)
            apart_s = min(apart_s * (1.3 if late_s > _LATE_S else 0.95), _APART_MOST_S)
            print(f"\r{outcome.reads:>7} reads, {outcome.near} near", end="", file=sys.stderr, flush=True)
    return outcome


def insert(url: str, count: int, apart_s: float) -> list[tuple[str, float]]:
    """Insert results that expire one after another; return each with its expiry in seconds of the epoch."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    start = time.time() + _LEAD_S
    parameters = {"header": make_header().SerializeToString(), "start": start, "apart_s": apart_s, "ids": ids}
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        return [(str(one), when.timestamp()) for one, when in connection.execute(_INSERT, parameters).fetchall()]


async def _read_all(
    stubs: Sequence[ResultsServiceStub],
    plan: Sequence[tuple[float, str, float, bool]],
    chance: random.Random,
    outcome: Outcome,
    flight: _Flight,
) -> float:
    """Read as planned; return by how much a read was late, on average."""
    left, late_s = list(plan)[::-1], 0.0

    async def work() -> None:
        nonlocal late_s
        while left:
            due, result_id, expiry, aimed = left.pop()
            wait = due - (flight.seconds if aimed else 0.0) - time.time()
            if wait > 0:
                await asyncio.sleep(wait)
            late_s += max(-wait, 0.0) / len(plan)
            read = chance.choice((_get, _check))
            await read(chance.choice(stubs), result_id, expiry, outcome, flight)

    await asyncio.gather(*(work() for _ in range(_WORKERS)))
    return late_s


@dataclass(slots=True)
class _Flight:
    """How long a request takes to reach the database."""

    seconds: float = 0.002

    def note(self, seconds: float) -> None:
        self.seconds += 0.05 * (seconds - self.seconds)


def _plan(results: Sequence[tuple[str, float]], chance: random.Random) -> Iterator[tuple[float, str, float, bool]]:
    for result_id, expiry in results:
        for _ in range(AIMED):
            yield expiry + chance.uniform(-0.0008, 0.0008), result_id, expiry, True
        for _ in range(READS_EACH - AIMED):
            yield expiry + chance.gauss(0, 0.02), result_id, expiry, False


async def _check(stub: ResultsServiceStub, result_id: str, expiry: float, outcome: Outcome, flight: _Flight) -> None:
    sent = time.time()
    found = await stub.CheckResults(pb.CheckResultsRequest(result_ids=[result_id]), timeout=30)  # type: ignore[misc]
    read_time = found.read_time.seconds + found.read_time.nanos / 1e9
    flight.note(read_time - sent)
    outcome.note_checked(result_id, expiry, sent, read_time, kept=bool(found.result_ids))


async def _get(stub: ResultsServiceStub, result_id: str, expiry: float, outcome: Outcome, flight: _Flight) -> None:
    sent = time.time()
    try:
        response = await stub.GetResult(pb.GetResultRequest(result_id=result_id), timeout=30)  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        outcome.note(result_id, expiry, sent, None)
        return
    read_time = response.read_time.seconds + response.read_time.nanos / 1e9
    flight.note(read_time - sent)
    outcome.note(result_id, expiry, sent, read_time)


def main() -> int:
    """Run it; the exit code tells whether every read was right, and enough of them near."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args()
    with postgres.make_home() as home, postgres.run_server(home) as server:
        template = postgres.build_template(server)
        with postgres.copy_database(server, template) as url, run_replicas(home, url, *environments()) as replicas:
            print(f"seed {asked.seed}: {asked.reads} reads, {asked.reads // 500} s and more", flush=True)
            outcome = run(replicas, url, reads=asked.reads, seed=asked.seed)
    print(f"{outcome.reads} reads, {outcome.served} served, {outcome.gone} gone, {outcome.near} within 1 ms of expiry")
    print(f"served late {len(outcome.late)}, gone early {len(outcome.early)}")
    for line in (*outcome.late[:10], *outcome.early[:10]):
        print(" ", line)
    if outcome.near < NEAR_SHARE * outcome.reads:
        print(f"too few were near: {NEAR_SHARE:.0%} are wanted; the machine was busy")
        return 1
    return 1 if outcome.late or outcome.early else 0


if __name__ == "__main__":
    sys.exit(main())
