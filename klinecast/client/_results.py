"""The results service."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from klinecast.api.results.v1 import result_pb2
from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.api.results.v1.results_service_pb2_grpc import ResultsServiceStub
from klinecast.client._calls import Caller
from klinecast.client._errors import translated
from klinecast.columns import Column
from klinecast.convert import models as convert
from klinecast.convert.results import columns_from_message, columns_to_message
from klinecast.convert.retention import (
    audit_record_from_proto,
    comparison_from_proto,
    duration_to_proto,
    filter_to_proto,
    policy_from_proto,
    policy_to_proto,
    preview_from_proto,
    reason_to_proto,
    usage_from_proto,
)
from klinecast.models import Result
from klinecast.retention import (
    AuditRecord,
    ResultComparison,
    ResultFilter,
    RetentionPolicy,
    RetentionPreview,
    RetentionUsage,
)

CHUNK_ROWS = 16_384
"""Rows a message: the widest, trades, then take 1.5 MB."""
Columns = Mapping[str, Column]
_CHUNKS = {"trades": result_pb2.TradeColumns, "fills": result_pb2.FillColumns, "equity": result_pb2.EquityColumns}


class ResultCalls:
    """RPCs of ResultsService."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        self._stub = ResultsServiceStub(channel)
        self._caller = caller
        self._streams: dict[str, tuple[Any, Any]] = {
            "trades": (self._stub.StreamTrades, pb.StreamTradesRequest),
            "fills": (self._stub.StreamFills, pb.StreamFillsRequest),
            "equity": (self._stub.StreamEquity, pb.StreamEquityRequest),
        }

    def save(
        self,
        header: result_pb2.ResultHeader,
        chunks: Mapping[str, Columns | None],
        *,
        fence: int,
        ttl_s: float | None,
        tenant: str | None,
    ) -> Result:
        """Store a result: all of it becomes visible, or none."""
        requests = _save_requests(header, chunks, fence, ttl_s)
        with translated():
            response = self._stub.SaveResult(
                requests, timeout=self._caller.timeout_s, metadata=self._caller.metadata(tenant)
            )
        return convert.result(response.result)

    def get(self, result_id: str) -> Result:
        """Get the header of a result."""
        return convert.result(self._caller.unary(self._stub.GetResult, pb.GetResultRequest(result_id=result_id)).result)

    def list(self, wanted: ResultFilter, limit: int | None) -> Iterator[Result]:
        """Yield results page by page."""
        request = filter_to_proto(wanted)
        request.page_size = min(limit or 100, 100)
        left = limit
        while left is None or left > 0:
            page = self._caller.unary(self._stub.ListResults, request)
            found = page.results if left is None else page.results[:left]
            yield from map(convert.result, found)
            left = None if left is None else left - len(found)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def check(self, result_ids: Sequence[str], tenant: str | None) -> tuple[str, ...]:
        """Return those that are kept."""
        request = pb.CheckResultsRequest(result_ids=result_ids)
        return tuple(self._caller.unary(self._stub.CheckResults, request, tenant=tenant).result_ids)

    def compare(self, result_ids: Sequence[str]) -> ResultComparison:
        """Put results side by side."""
        request = pb.CompareResultsRequest(result_ids=result_ids)
        return comparison_from_proto(self._caller.unary(self._stub.CompareResults, request))

    def render_report(self, result_ids: Sequence[str]) -> str:
        """Render one result, or a comparison, as HTML."""
        return self._caller.unary(self._stub.RenderReport, pb.RenderReportRequest(result_ids=result_ids)).html

    def thinned_equity(self, result_id: str, max_points: int) -> dict[str, Column]:
        """Read equity in one message."""
        request = pb.StreamEquityRequest(result_id=result_id, max_points=max_points)
        [response] = self._caller.resuming(lambda: self._caller.stream(self._stub.StreamEquity, request))
        return columns_from_message(response.equity)

    def load(self, kind: str, result_id: str, tenant: str | None) -> dict[str, Column]:
        """Read trades, fills or equity whole; a cut stream goes on where it was cut."""
        call, request_type = self._streams[kind]
        request = request_type(result_id=result_id)

        def from_last() -> Iterator[Any]:
            return self._caller.stream(call, request, tenant=tenant)

        parts = []
        for response in self._caller.resuming(from_last):
            parts.append(columns_from_message(getattr(response, kind)))
            request.start_row = response.next_row
        if not parts:
            return columns_from_message(_CHUNKS[kind]())
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def update_retention(
        self, result_id: str, *, ttl_s: float | None, pinned: bool | None, extend_only: bool, tenant: str | None
    ) -> Result:
        """Give a result a new TTL, pin it or unpin it."""
        request = pb.UpdateRetentionRequest(result_id=result_id, extend_only=extend_only)
        if ttl_s is not None:
            request.ttl.CopyFrom(duration_to_proto(ttl_s))
        elif pinned is not None:
            request.pinned = pinned
        return convert.result(self._caller.unary(self._stub.UpdateRetention, request, tenant=tenant).result)

    def get_policy(self, tenant: str | None) -> tuple[RetentionPolicy, RetentionUsage]:
        """Get the policy in effect and what is kept."""
        response = self._caller.unary(self._stub.GetRetentionPolicy, pb.GetRetentionPolicyRequest(), tenant=tenant)
        return policy_from_proto(response.policy), usage_from_proto(response.usage)

    def set_policy(self, policy: RetentionPolicy) -> RetentionPolicy:
        """Replace the policy; return the one in effect."""
        request = pb.SetRetentionPolicyRequest(policy=policy_to_proto(policy))
        return policy_from_proto(self._caller.unary(self._stub.SetRetentionPolicy, request).policy)

    def preview(self, policy: RetentionPolicy | None) -> RetentionPreview:
        """Tell what would go."""
        asked = None if policy is None else policy_to_proto(policy)
        request = pb.PreviewRetentionRequest(policy=asked)
        return preview_from_proto(self._caller.unary(self._stub.PreviewRetention, request))

    def audit(self, reason: str | None, limit: int | None) -> Iterator[AuditRecord]:
        """Yield what went, newest first."""
        request = pb.ListRetentionAuditRequest(
            reason=None if reason is None else reason_to_proto(reason),  # type: ignore[arg-type]
            page_size=min(limit or 1000, 1000),
        )
        left = limit
        while left is None or left > 0:
            page = self._caller.unary(self._stub.ListRetentionAudit, request)
            found = page.records if left is None else page.records[:left]
            yield from map(audit_record_from_proto, found)
            left = None if left is None else left - len(found)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def delete(self, result_id: str, *, tombstone_fence: int, tenant: str | None) -> bool:
        """Delete a result; False when there was none."""
        request = pb.DeleteResultRequest(result_id=result_id, tombstone_fence=tombstone_fence)
        return self._caller.unary(self._stub.DeleteResult, request, tenant=tenant).deleted


def _save_requests(
    header: result_pb2.ResultHeader, chunks: Mapping[str, Columns | None], fence: int, ttl_s: float | None
) -> Iterator[pb.SaveResultRequest]:
    begin = pb.SaveResultBegin(header=header, fence=fence)
    if ttl_s is not None:
        begin.ttl.CopyFrom(duration_to_proto(ttl_s))
    yield pb.SaveResultRequest(begin=begin)
    digest = hashlib.sha256()
    for kind, columns in chunks.items():
        for chunk in _cut(columns, _CHUNKS[kind]) if columns is not None else ():
            digest.update(chunk.SerializeToString(deterministic=True))
            yield pb.SaveResultRequest(**{kind: chunk})  # type: ignore[arg-type]
    yield pb.SaveResultRequest(commit=pb.SaveResultCommit(checksum=digest.hexdigest()))


def _cut(columns: Columns, message_type: Callable[[], Message]) -> Iterator[Message]:
    rows = len(next(iter(columns.values())))
    for start in range(0, rows, CHUNK_ROWS):
        message = message_type()
        columns_to_message(message, {name: column[start : start + CHUNK_ROWS] for name, column in columns.items()})
        yield message
