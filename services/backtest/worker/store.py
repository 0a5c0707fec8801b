"""The few writes of a worker, each under its fence, over one synchronous connection that heals itself."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import DictRow

from services.backtest import statements
from services.backtest.connection import HealingConnection
from services.backtest.jobs import Failure, JobKey
from services.backtest.reuse import Read

_RETRY_S = 0.2
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A backtest this worker holds."""

    key: JobKey
    config: bytes
    fence: int
    attempt: int
    traceparent: str
    queued_s: float
    left_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A shorter backtest that can be gone on from."""

    result_id: str
    reads: Sequence[Mapping[str, Any]]
    continuation: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """What a result came from: all None where another backtest may not rest on it."""

    reuse_key: bytes | None = None
    continue_key: bytes | None = None
    reads: Sequence[Read] | None = None
    continuation: bytes | None = None


class WorkerStore:
    """Claims a backtest and writes its events and its end."""

    def __init__(self, url: str, worker_id: str) -> None:
        self._connection = HealingConnection(url, "klinecast-worker", timeout_s=_TIMEOUT_S)
        self._worker_id = worker_id

    def connect(self) -> None:
        """Connect now, so that the first backtest need not."""
        self._connection.open()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def claim(self, backtest_id: str) -> Claim | None:
        """Claim a delivered backtest; None when it is not to be had."""
        row = self._execute(statements.CLAIM, {"backtest_id": backtest_id, "worker_id": self._worker_id})
        if row is None:
            return None
        return Claim(
            JobKey(row["tenant_id"], backtest_id),
            bytes(row["config"]),
            row["fence"],
            row["attempt"],
            row["traceparent"],
            row["queued_s"],
            row["left_s"],
        )

    def find_continuable(self, tenant: str, continue_key: bytes, end_ms: int) -> Sequence[Finished]:
        """Return the longest backtests that end before an instant and differ from this one in their end only."""
        parameters = {"tenant": tenant, "continue_key": continue_key, "end_ms": end_ms}
        return [
            Finished(row["result_id"], row["reads"], bytes(row["continuation"]))
            for row in self._connection.run(statements.FIND_CONTINUABLE, parameters)
        ]

    def progress(self, claim: Claim, body: Mapping[str, object]) -> bool | None:
        """Store a progress event; return whether a cancel was asked for, None when the fence is stale."""
        row = self._execute(statements.PROGRESS, {**_held(claim), "progress": statements.progress_json(body)})
        return None if row is None else row["cancel_requested"]

    def succeed(
        self, claim: Claim, progress: Mapping[str, object], timings_s: Mapping[str, float], origin: Origin
    ) -> bool:
        """End the backtest SUCCEEDED, its result saved under its own id; False when the fence is stale."""
        return self._finish(
            statements.SUCCEED,
            {
                **_held(claim),
                "result_id": claim.key.backtest_id,
                "progress": statements.progress_json(progress),
                "timings_s": json.dumps(timings_s),
                "reuse_key": origin.reuse_key,
                "continue_key": origin.continue_key,
                "reads": None if origin.reads is None else json.dumps([one.to_json() for one in origin.reads]),
                "continuation": origin.continuation,
            },
        )

    def fail(self, claim: Claim, failure: Failure, timings_s: Mapping[str, float]) -> bool:
        """End the backtest FAILED; False when the fence is stale."""
        return self._finish(
            statements.FAIL,
            {**_held(claim), "failure": statements.failure_json(failure), "timings_s": json.dumps(timings_s)},
        )

    def cancelled(self, claim: Claim) -> bool:
        """End the backtest CANCELLED; False when nobody asked for that: what is still ours is then given back."""
        if self._finish(statements.FINISH_CANCELLED, _held(claim)):
            return True
        given_up = {"backtest_id": claim.key.backtest_id, "worker_id": self._worker_id, "how": "its worker gave it up"}
        self._finish(statements.RELEASE, given_up)
        return False

    def _finish(self, statement: str, parameters: Mapping[str, object]) -> bool:
        """Write an end, trying again while the database is away: a repeated write is refused, so at most one counts."""
        while True:
            try:
                return self._execute(statement, parameters) is not None
            except psycopg.OperationalError:
                time.sleep(_RETRY_S)

    def _execute(self, statement: str, parameters: Mapping[str, object]) -> DictRow | None:
        rows = self._connection.run(statement, parameters)
        return rows[0] if rows else None


def _held(claim: Claim) -> dict[str, object]:
    return {"tenant": claim.key.tenant, "backtest_id": claim.key.backtest_id, "fence": claim.fence}
