"""One attempt at a backtest: claim it, run it, write how it ended, each write under the fence of the claim."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import psycopg
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from klinecast.backtest_config import BacktestConfig
from klinecast.client import Client
from klinecast.convert.backtest import config_from_proto
from klinecast.convert.outcome import config_from_wire
from klinecast.convert.violations import Violations
from klinecast.errors import Aborted, KlinecastError, ResourceExhausted, Unavailable
from klinecast.strategy import State, Window
from services.backtest.catalogue import Catalogue
from services.backtest.continuing import Start
from services.backtest.jobs import Failure, Phase
from services.backtest.neighbours import Market, asking
from services.backtest.run import GivenUp, Loaded, Pace, Progress, Run, RunFailed, Timings
from services.backtest.runner import Runner
from services.backtest.worker.loading import load
from services.backtest.worker.outcome import save_run
from services.backtest.worker.protocol import Claimed, Done, Dropped, FromWorker, Stored
from services.backtest.worker.resuming import resume
from services.backtest.worker.store import Claim, Origin, WorkerStore
from services.runtime.logs import get_logger

_LOG = get_logger(__name__)
PROGRESS_EVERY_S = 0.2
"""Progress is coalesced to at most five events a second."""
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_T = TypeVar("_T")


class Parent(Protocol):
    """The process that delivers backtests and renews their leases."""

    def send(self, message: FromWorker) -> None:
        """Tell it something."""

    def is_cancelled(self, backtest_id: str) -> bool:
        """Tell whether it wants the backtest given up."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What an attempt needs; one per worker, used for every backtest."""

    store: WorkerStore
    client: Client
    catalogue: Catalogue
    mailbox: Parent
    tracer: trace.Tracer

    def run(self, backtest_id: str) -> None:
        """Claim and run a backtest; whatever happens, the parent is told when this worker is free again."""
        try:
            claim = self.store.claim(backtest_id)
        except psycopg.OperationalError:
            claim = None
        if claim is None:
            self.mailbox.send(Dropped())
            return
        self.mailbox.send(Claimed(claim.key, claim.fence, claim.left_s))
        context = TraceContextTextMapPropagator().extract({"traceparent": claim.traceparent})
        with self.tracer.start_as_current_span("backtest", context, attributes={"klinecast.backtest_id": backtest_id}):
            self.mailbox.send(_Held(self, claim).run())

    def patiently(self, claim: Claim, call: Callable[[], _T]) -> _T:
        """Make a call to another service until it is not away or too busy; the deadline of the backtest ends it."""
        tries = 0
        while True:
            try:
                return call()
            except (Unavailable, ResourceExhausted):
                if self.mailbox.is_cancelled(claim.key.backtest_id):
                    raise GivenUp from None
                time.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
                tries += 1


class _Held:
    """An attempt while it holds its backtest."""

    def __init__(self, attempt: Attempt, claim: Claim) -> None:
        self._attempt = attempt
        self._store = attempt.store
        self._claim = claim
        self._market = Market(attempt.client, claim.key.tenant)
        self._timings = Timings({"queued": claim.queued_s})
        self._last = Progress(Phase.LOAD)
        self._reported = time.monotonic()
        self._pace = Pace()
        self._body: dict[str, object] = {}

    def run(self) -> FromWorker:
        """Run to an end and write it; return what to tell the parent."""
        runner = Runner(
            catalogue=self._attempt.catalogue,
            load=lambda config, series, indicators: self._attempt.patiently(
                self._claim, lambda: load(self._market, config, series, indicators)
            ),
            resume=self._resume,
            save=lambda run: self._attempt.patiently(self._claim, lambda: self._save(run)),
            report=self._report,
        )
        try:
            config = self._config()
            key = self._attempt.catalogue.reuse_key(config)
            origin = self._origin(config, key, runner.run(config, self._timings))
        except GivenUp:
            return self._done("CANCELLED", self._store.cancelled(self._claim))
        except RunFailed as failed:
            return self._fail(failed.failure)
        except KlinecastError as error:
            return self._fail(Failure(error.reason, str(error)))
        except MemoryError:
            return self._fail(Failure("RESOURCE", "the worker ran out of memory"))
        written = self._store.succeed(self._claim, self._body, self._timings.seconds, origin)
        return self._done("SUCCEEDED", written)

    def _origin(self, config: BacktestConfig, key: bytes | None, run: Run) -> Origin:
        """Say what the result came from, unless files beside the strategy changed while it ran."""
        if key is None or run.reads is None or key != self._attempt.catalogue.reuse_key(config):
            return Origin()
        return Origin(key, self._attempt.catalogue.continue_key(config), run.reads, run.continuation)

    def _resume(self, config: BacktestConfig, memory: Window | State) -> tuple[Start, Loaded] | None:
        key = self._attempt.catalogue.continue_key(config)
        if key is None:
            return None
        try:
            return resume(self._market, self._store, key, config, memory)
        except psycopg.OperationalError:  # the database is away: run in full
            return None

    def _fail(self, failure: Failure) -> FromWorker:
        return self._done("FAILED", self._store.fail(self._claim, failure, self._timings.seconds))

    def _done(self, state: str, written: bool) -> FromWorker:
        took = {phase: round(1000 * seconds, 1) for phase, seconds in self._timings.seconds.items()}
        _LOG.info(  # the line that leads from a slow backtest to its trace
            "attempt_ended" if written else "attempt_superseded",
            backtest_id=self._claim.key.backtest_id,
            tenant=self._claim.key.tenant,
            attempt=self._claim.attempt,
            state=state,
            duration_ms=round(sum(took.values()) - took.get("queued", 0.0), 1),
            phases_ms=took,
        )
        return Done(self._claim.key.backtest_id, state, self._timings.seconds) if written else Dropped()

    def _config(self) -> BacktestConfig:
        violations = Violations()
        config = config_from_proto(config_from_wire(self._claim.config), violations)
        violations.raise_if_any()
        if config is None:
            raise RunFailed(Failure("INVALID_FIELD", "the stored config is not valid"))
        return config

    def _save(self, run: Run) -> None:
        try:
            with asking("results"):
                save_run(self._attempt.client, self._claim, run)
        except Aborted as error:  # a newer attempt holds the backtest
            raise GivenUp from error

    def _report(self, progress: Progress) -> None:
        """Store progress when it is due; raise GivenUp when the backtest was cancelled or is not ours any more."""
        if self._attempt.mailbox.is_cancelled(self._claim.key.backtest_id):
            raise GivenUp
        now = time.monotonic()
        self._body = _body(progress, self._pace.left_s(progress, now))
        if now - self._reported < PROGRESS_EVERY_S:
            return
        self._reported = now
        try:
            cancel_requested = self._store.progress(self._claim, self._body)
        except psycopg.OperationalError:  # the database is away: the run goes on, its end waits
            return
        if cancel_requested is None or cancel_requested:
            raise GivenUp
        self._attempt.mailbox.send(Stored(self._claim.key.backtest_id))


def _body(progress: Progress, eta_s: float | None) -> dict[str, object]:
    total = progress.klines_total
    body: dict[str, object] = {
        "phase": progress.phase.value,
        "klines_done": progress.klines_done,
        "klines_total": total,
        "fraction_done": progress.klines_done / total if total else 0.0,
    }
    if progress.equity is not None:
        body |= {"equity": progress.equity, "drawdown": progress.drawdown}
    if eta_s is not None:
        body["eta_s"] = eta_s
    return body
