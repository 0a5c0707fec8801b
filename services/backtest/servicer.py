"""BacktestService: requests in, domain calls, messages out. Knows no SQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from klinecast.api.backtest.v1 import backtest_pb2, backtest_service_pb2, backtest_service_pb2_grpc
from klinecast.convert.backtest import config_from_proto
from klinecast.convert.market import id_from_proto, page_size_from_proto
from klinecast.convert.violations import Violations
from klinecast.errors import FieldViolation, InvalidArgument, NotFound
from services.backtest.catalogue import Catalogue
from services.backtest.expiry import ResultExpiry
from services.backtest.jobs import Event, Job, JobFilter, JobKey, JobStore
from services.backtest.servicer_messages import event_to_proto, job_to_proto, state_from_proto, strategy_to_proto
from services.backtest.submitting import Submitter
from services.backtest.watching import WatchHub
from services.runtime.errors import shutting_down
from services.runtime.paging import encode_page_token, read_page_token, require_id
from services.runtime.tenancy import current_tenant

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the servicer works with."""

    store: JobStore
    expiry: ResultExpiry
    submitter: Submitter
    hub: WatchHub
    catalogue: Catalogue
    shutdown: asyncio.Event
    heartbeat_s: float
    work_arrived: Callable[[], None]


class BacktestServicer(backtest_service_pb2_grpc.BacktestServiceServicer):
    """The RPCs of BacktestService."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def CreateBacktest(
        self, request: backtest_service_pb2.CreateBacktestRequest, context: _Context
    ) -> backtest_service_pb2.CreateBacktestResponse:
        """Check a config and queue it."""
        job = await self._submit(request.request_id, request.config)
        return backtest_service_pb2.CreateBacktestResponse(backtest=job_to_proto(job))

    async def RunBacktest(
        self, request: backtest_service_pb2.RunBacktestRequest, context: _Context
    ) -> AsyncIterator[backtest_service_pb2.RunBacktestResponse]:
        """Queue and watch."""
        job = await self._submit(request.request_id, request.config)
        async for event in self._events(job, 0):
            yield backtest_service_pb2.RunBacktestResponse(event=event)

    async def WatchBacktest(
        self, request: backtest_service_pb2.WatchBacktestRequest, context: _Context
    ) -> AsyncIterator[backtest_service_pb2.WatchBacktestResponse]:
        """Stream the events after a sequence number."""
        job = await self._get(request.backtest_id)
        after = request.after_sequence
        if after < 0 or after > job.last_sequence:
            raise InvalidArgument.of(FieldViolation("after_sequence", f"must be 0..{job.last_sequence}"))
        if job.state.terminal and after == job.last_sequence:
            return
        async for event in self._events(job, after):
            yield backtest_service_pb2.WatchBacktestResponse(event=event)

    async def GetBacktest(
        self, request: backtest_service_pb2.GetBacktestRequest, context: _Context
    ) -> backtest_service_pb2.GetBacktestResponse:
        """Get one backtest."""
        [job] = await self._parts.expiry.told([await self._get(request.backtest_id)])
        return backtest_service_pb2.GetBacktestResponse(backtest=job_to_proto(job))

    async def ListBacktests(
        self, request: backtest_service_pb2.ListBacktestsRequest, context: _Context
    ) -> backtest_service_pb2.ListBacktestsResponse:
        """List backtests, newest first."""
        tenant, found = current_tenant.get(), Violations()
        page_size = page_size_from_proto(request, found, default=50)
        states = [state_from_proto(state) for state in request.states]
        found.check(None not in states, "states", "must hold values of BacktestState")
        found.check_text(request.strategy, "strategy", most=128)
        found.raise_if_any()
        after = read_page_token(request.page_token, tenant, "backtests", lambda cursor: require_id(cursor[0]))
        wanted = JobFilter(
            states=[state for state in states if state is not None],
            strategy=request.strategy,
            page_size=page_size,
            after=after,
        )
        jobs = await self._parts.expiry.told(await self._parts.store.list(tenant, wanted))
        token = encode_page_token(tenant, "backtests", [jobs[-1].key.backtest_id]) if len(jobs) == page_size else ""
        return backtest_service_pb2.ListBacktestsResponse(backtests=map(job_to_proto, jobs), next_page_token=token)

    async def CancelBacktest(
        self, request: backtest_service_pb2.CancelBacktestRequest, context: _Context
    ) -> backtest_service_pb2.CancelBacktestResponse:
        """Cancel a backtest."""
        job = await self._parts.store.cancel(_key(request.backtest_id))
        if job is None:
            raise _not_found(request.backtest_id)
        self._parts.hub.wake(job.key.backtest_id)
        return backtest_service_pb2.CancelBacktestResponse(backtest=job_to_proto(job))

    async def ListStrategies(
        self, request: backtest_service_pb2.ListStrategiesRequest, context: _Context
    ) -> backtest_service_pb2.ListStrategiesResponse:
        """List the registered strategies."""
        return backtest_service_pb2.ListStrategiesResponse(
            strategies=map(strategy_to_proto, self._parts.catalogue.list())
        )

    async def _submit(self, request_id: str, proto: backtest_pb2.BacktestConfig) -> Job:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(trace.get_current_span()))
        found = Violations()
        config = config_from_proto(proto, found)
        wire = proto.SerializeToString(deterministic=True)
        tenant = current_tenant.get()
        job = await self._parts.submitter.submit(
            tenant, request_id, config, wire, found, carrier.get("traceparent", "")
        )
        self._parts.work_arrived()
        return job

    async def _get(self, backtest_id: str) -> Job:
        job = await self._parts.store.get(_key(backtest_id))
        if job is None:
            raise _not_found(backtest_id)
        return job

    async def _events(self, job: Job, after: int) -> AsyncIterator[backtest_pb2.BacktestEvent]:
        """Yield events up to the terminal one, heartbeats when nothing happens; a stop ends it resumably."""
        stopping = asyncio.ensure_future(self._parts.shutdown.wait())
        events = self._parts.hub.watch(job.key, after, story=job.last_sequence, quiet_s=self._parts.heartbeat_s)
        last = Event(max(after, 0), job.create_time, job.state, job.attempt, job.progress)
        step: asyncio.Task[Sequence[Event] | None] | None = None
        try:
            while True:
                step = asyncio.create_task(_next(events))
                await asyncio.wait({step, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    raise shutting_down()
                batch = step.result()
                if batch is None:
                    return
                for last in batch:
                    yield event_to_proto(job.key.backtest_id, last)
                if not batch:
                    yield event_to_proto(job.key.backtest_id, last, heartbeat=True)
        finally:
            stopping.cancel()
            if step is not None and not step.done():  # the caller went away, or its token
                step.cancel()
                await asyncio.wait({step})
            await events.aclose()


async def _next(events: AsyncIterator[Sequence[Event]]) -> Sequence[Event] | None:
    return await anext(events, None)


def _key(backtest_id: str) -> JobKey:
    found = Violations()
    known = id_from_proto(backtest_id, "backtest_id", found)
    found.raise_if_any()
    return JobKey(current_tenant.get(), str(uuid.UUID(known)))


def _not_found(backtest_id: str) -> NotFound:
    return NotFound(f"no backtest {backtest_id}", reason="BACKTEST_NOT_FOUND")
