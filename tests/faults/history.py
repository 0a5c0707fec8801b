"""What clients were told, and a checker that holds it against what the database says in the end, as Jepsen does."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from klinecast.client import Client
from services.runtime.database import libpq_url


@dataclass(frozen=True, slots=True)
class Submit:
    """One request for a backtest, however often it was sent."""

    request_id: str
    config: str
    """Which of the configs of the run."""
    backtest_id: str | None
    """What the client was told; None where it was never told, so that it may exist or not."""


class History:
    """Everything that clients did and heard, in the order it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.submits: list[Submit] = []
        self.stories: dict[str, list[int]] = {}
        """Event numbers that a watcher heard, to the terminal one."""

    def submitted(self, submit: Submit) -> None:
        """Note how a request ended."""
        with self._lock:
            self.submits.append(submit)

    def watched(self, backtest_id: str, sequences: list[int]) -> None:
        """Note what a watcher heard."""
        with self._lock:
            self.stories[backtest_id] = sequences


@dataclass(frozen=True, slots=True)
class Final:
    """What the database says when all is quiet."""

    states: Mapping[str, str]
    """State of each backtest."""
    requests: Mapping[str, str]
    """request_id of each backtest."""
    events: Mapping[str, Sequence[tuple[int, str]]]
    """Numbers and states of the events of each backtest."""
    results: Sequence[str]
    """Ids of the visible results."""
    digests: Mapping[str, str]
    """Of the result of each backtest, all its columns and statistics."""


@dataclass(slots=True)
class Verdict:
    """What went wrong, by kind; all empty is what is promised."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, and gone or never ended."""
    doubled: list[str] = field(default_factory=list)
    """Two backtests of one request, two results, two ends, or event numbers that repeat or skip."""
    unexpected: list[str] = field(default_factory=list)
    """Ended otherwise than they should, or asked for by nobody."""
    wrong: list[str] = field(default_factory=list)
    """Results other than those of a run without faults."""

    def __str__(self) -> str:
        kinds = {"lost": self.lost, "doubled": self.doubled, "unexpected": self.unexpected, "wrong": self.wrong}
        return ", ".join(f"{kind} {len(found)}" for kind, found in kinds.items())

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.doubled or self.unexpected or self.wrong)


_TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


def check(history: History, final: Final, expected: Mapping[str, str]) -> Verdict:
    """Compare; expected: the digest of each config's result."""
    verdict, known = Verdict(), {one.request_id: one for one in history.submits}
    for submit in history.submits:
        if submit.backtest_id is not None and final.states.get(submit.backtest_id) not in _TERMINAL:
            verdict.lost.append(f"{submit.backtest_id} is {final.states.get(submit.backtest_id)}")
    for request_id, count in Counter(final.requests.values()).items():
        if count > 1:
            verdict.doubled.append(f"{count} backtests of request {request_id}")
    for backtest_id, count in Counter(final.results).items():
        if count > 1:
            verdict.doubled.append(f"{count} results of {backtest_id}")
    for backtest_id, state in final.states.items():
        request = known.get(final.requests.get(backtest_id, ""))
        events = final.events.get(backtest_id, ())
        if request is None or request.backtest_id not in (None, backtest_id):
            verdict.unexpected.append(f"{backtest_id} was asked for by nobody")
        elif state != "SUCCEEDED":
            verdict.unexpected.append(f"{backtest_id} is {state}")
        elif final.digests.get(backtest_id) != expected[request.config]:
            verdict.wrong.append(f"{backtest_id} of {request.config}")
        if [sequence for sequence, _ in events] != list(range(1, len(events) + 1)):
            verdict.doubled.append(f"events of {backtest_id} are not numbered from 1")
        if sum(one in _TERMINAL for _, one in events) != (state in _TERMINAL):
            verdict.doubled.append(f"{backtest_id} ended more than once, or without an event")
    for backtest_id, heard in history.stories.items():
        if heard != [sequence for sequence, _ in final.events.get(backtest_id, ())]:
            verdict.doubled.append(f"a watcher of {backtest_id} heard {heard}")
    return verdict


def wait_until_quiet(url: str, seconds: float) -> None:
    """Wait until nothing waits or runs any more, or the time is over."""
    deadline = time.monotonic() + seconds
    query = "SELECT count(*) FROM backtest.backtests WHERE state IN ('QUEUED', 'RUNNING')"
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        while connection.execute(query).fetchone() != (0,) and time.monotonic() < deadline:
            time.sleep(0.2)


def read_final(url: str, client: Client) -> Final:
    """Read the end of a run; the client reads the results."""
    with psycopg.connect(libpq_url(url)) as connection:
        rows = connection.execute("SELECT backtest_id::text, state, request_id FROM backtest.backtests").fetchall()
        events: dict[str, list[tuple[int, str]]] = {}
        query = "SELECT backtest_id::text, sequence, state FROM backtest.events ORDER BY backtest_id, sequence"
        for backtest_id, sequence, state in connection.execute(query):
            events.setdefault(backtest_id, []).append((sequence, state))
        results = [row[0] for row in connection.execute("SELECT result_id::text FROM results.results")]
    states = {backtest_id: state for backtest_id, state, _ in rows}
    digests = {one: digest(client, one) for one in results if states.get(one) == "SUCCEEDED"}
    return Final(states, {one: request_id or "" for one, _, request_id in rows}, events, results, digests)


def digest(client: Client, result_id: str) -> str:
    """Hash a result: statistics, trades, fills and equity to the last bit."""
    found = hashlib.sha256(repr(sorted(client.get_result(result_id).statistics.items())).encode())
    for load in (client.load_trades, client.load_fills, client.load_equity):
        for name, column in sorted(load(result_id).items()):
            found.update(name.encode() + column.tobytes())
    return found.hexdigest()
