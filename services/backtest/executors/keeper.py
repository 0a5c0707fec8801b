"""What the parent of workers writes for them: leases, and what became of the backtests of dead workers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait

import psycopg

from services.backtest import queue_statements, statements
from services.backtest.connection import HealingConnection
from services.backtest.jobs import CANCEL, WAKE_CHANNEL, Failure, JobKey, State

_TIMEOUT_S = 1.5
"""Half a lease: a heartbeat that takes longer is given up, the next may still be in time."""


@dataclass(frozen=True, slots=True)
class Held:
    """A backtest that a worker of ours has claimed."""

    key: JobKey
    fence: int


class Keeper:
    """Writes under the fences of our workers, over a connection nobody else uses; hears of cancels on it."""

    def __init__(self, url: str) -> None:
        self._connection = HealingConnection(url, "klinecast-keeper", timeout_s=_TIMEOUT_S, listen=WAKE_CHANNEL)

    def renew(self, held: Mapping[str, Held]) -> Mapping[str, bool]:
        """Renew leases; return the ids of those that still are ours, and whether their cancel was asked for."""
        parameters = {
            "tenants": [one.key.tenant for one in held.values()],
            "ids": list(held),
            "fences": [one.fence for one in held.values()],
        }
        rows = self._connection.run(statements.RENEW, parameters)
        return {row["backtest_id"]: row["cancel_requested"] for row in rows}

    def announce(self, pool_id: str, slots: int) -> None:
        """Say for one lease that our pool can run so many backtests at once."""
        self._connection.run(queue_statements.ANNOUNCE, {"pool_id": pool_id, "slots": slots})

    def wake_dispatchers(self) -> None:
        """Have every service look at the queue."""
        self._connection.run(queue_statements.WAKE, {})

    def release(self, backtest_id: str, worker_id: str, how: str) -> State | None:
        """Give back what a worker held when it died; return where it went, None when it held nothing."""
        parameters = {"backtest_id": backtest_id, "worker_id": worker_id, "how": how}
        rows = self._connection.run(statements.RELEASE, parameters)
        return State(rows[0]["state"]) if rows else None

    def fail(self, held: Held, failure: Failure) -> bool:
        """End a backtest FAILED whose worker was stopped for a reason; False when it is not ours any more."""
        parameters = {**_row(held), "failure": statements.failure_json(failure), "timings_s": "{}"}
        return bool(self._connection.run(statements.FAIL, parameters))

    def finish_cancelled(self, held: Held) -> bool:
        """End a backtest whose worker was stopped by a cancel; False when it is not ours any more."""
        return bool(self._connection.run(statements.FINISH_CANCELLED, _row(held)))

    def hand_back(self, backtest_id: str, worker_id: str) -> State | None:
        """Give back what a worker held that was stopped on purpose, which counts as no death; otherwise as release."""
        rows = self._connection.run(statements.HAND_BACK, {"backtest_id": backtest_id, "worker_id": worker_id})
        return State(rows[0]["state"]) if rows else None

    def wait(self, wake_fd: int, timeout_s: float) -> None:
        """Wait until a cancel is asked for, somebody writes to the descriptor, or the time is over."""
        deadline = time.monotonic() + timeout_s
        try:
            socket = self._connection.open().fileno()
            while (left_s := deadline - time.monotonic()) > 0:
                readable = wait([socket, wake_fd], left_s)  # select.select takes no descriptor beyond 1,023
                if wake_fd in readable or (socket in readable and CANCEL in self._connection.take_notifications()):
                    return
        except (psycopg.Error, OSError):  # the database is away: whoever asks us to write will see
            wait([wake_fd], max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _row(held: Held) -> dict[str, object]:
    return {"tenant": held.key.tenant, "backtest_id": held.key.backtest_id, "fence": held.fence}
