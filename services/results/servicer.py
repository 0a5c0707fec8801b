"""ResultsService: requests in, domain calls, messages out. Knows no SQL."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from klinecast.api.results.v1 import result_pb2, results_service_pb2_grpc
from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.columns import Column
from klinecast.convert.market import id_from_proto
from klinecast.convert.models import result as result_from_proto
from klinecast.convert.results import check_columns, columns_from_message
from klinecast.convert.violations import Violations
from klinecast.errors import Aborted, FieldViolation, InvalidArgument
from services.results import servicer_messages as messages
from services.results.cache import PayloadCache
from services.results.keeping import ResultStore, read_chunks
from services.results.packing import message_of, pack_columns, unpack_columns
from services.results.reporting import Reporter
from services.results.retention import LONGEST_TTL_S
from services.results.retention_rpcs import RetentionRpcs
from services.results.saving import Chunk, ResultKey, Save, StaleFenceError, StoredResult
from services.results.thinning import Thinner
from services.runtime.paging import encode_page_token
from services.runtime.tenancy import caller_is_service, current_tenant

_IN_THREAD_BYTES = 256 * 1024
"""Larger chunks are packed and unpacked in a thread: the event loop stays free."""
_MOST_COMPARED = 8
_MOST_CHECKED = 1_000
_POINTS = (10, 100_000)
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_COLUMNS: dict[str, Any] = {
    "trades": result_pb2.TradeColumns,
    "fills": result_pb2.FillColumns,
    "equity": result_pb2.EquityColumns,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the servicer works with."""

    store: ResultStore
    cache: PayloadCache
    retention: RetentionRpcs
    reporter: Reporter
    saved: Callable[[StoredResult], None]
    read: Callable[[ResultKey], None]
    check_running: Callable[[], None]


class ResultsServicer(results_service_pb2_grpc.ResultsServiceServicer):
    """The RPCs of ResultsService."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def SaveResult(
        self, requests: AsyncIterator[pb.SaveResultRequest], context: _Context
    ) -> pb.SaveResultResponse:
        """Store a result: all of it becomes visible at the commit, or none."""
        begin = await self._begin(requests)
        key, save, committed = _key(begin.header.result_id, Violations()), Save(self._parts.store), False
        try:
            async for request in requests:
                kind = request.WhichOneof("payload")
                if kind == "commit":
                    stored, is_new = await self._commit(begin, key, save, request.commit.checksum)
                    committed = is_new
                    if is_new:
                        self._parts.saved(stored)
                    return pb.SaveResultResponse(result=messages.result_to_proto(stored), stored=is_new)
                if kind not in _COLUMNS:
                    raise _invalid("payload", "must be trades, fills, equity or commit after begin")
                await _add(save, kind, getattr(request, kind))
            raise _invalid("commit", "is missing: nothing was stored")
        finally:
            if save.flushed and not committed:
                await self._parts.store.forget_save(key, save.save_id)

    async def GetResult(self, request: pb.GetResultRequest, context: _Context) -> pb.GetResultResponse:
        """Get the header of a result."""
        stored = await self._get(request.result_id)
        response = pb.GetResultResponse(result=messages.result_to_proto(stored))
        response.read_time.FromDatetime(stored.read_time)
        return response

    async def ListResults(self, request: pb.ListResultsRequest, context: _Context) -> pb.ListResultsResponse:
        """List results, newest first or by any statistic."""
        tenant = current_tenant.get()
        page = await self._parts.store.list(tenant, messages.listing_from_proto(request, tenant))
        response = pb.ListResultsResponse(results=map(messages.result_to_proto, page.results))
        response.read_time.FromDatetime(page.read_time)
        if page.next_cursor is not None:
            response.next_page_token = encode_page_token(tenant, messages.list_name(request), page.next_cursor)
        return response

    async def CheckResults(self, request: pb.CheckResultsRequest, context: _Context) -> pb.CheckResultsResponse:
        """Tell which results are kept."""
        ids = _ids(request.result_ids, 1, _MOST_CHECKED)
        kept, read_time = await self._parts.store.check(current_tenant.get(), ids)
        response = pb.CheckResultsResponse(result_ids=[one for one in ids if one in frozenset(kept)])
        response.read_time.FromDatetime(read_time)
        return response

    async def CompareResults(self, request: pb.CompareResultsRequest, context: _Context) -> pb.CompareResultsResponse:
        """Put results side by side."""
        return messages.comparison_to_proto(await self._several(request.result_ids, least=2))

    async def RenderReport(self, request: pb.RenderReportRequest, context: _Context) -> pb.RenderReportResponse:
        """Render one result, or several side by side."""
        stored = await self._several(request.result_ids, least=1)
        by_id = {one.key.result_id: one for one in stored}
        results = [result_from_proto(messages.result_to_proto(one)) for one in stored]

        def rows(result_id: str, kind: str) -> AsyncIterator[dict[str, Column]]:
            return self._columns(by_id[result_id], kind)

        if len(results) == 1:
            return pb.RenderReportResponse(html=await self._parts.reporter.render(results[0], rows))
        differences = messages.differences([one.header for one in stored])
        return pb.RenderReportResponse(html=await self._parts.reporter.compare(results, differences, rows))

    async def StreamTrades(
        self, request: pb.StreamTradesRequest, context: _Context
    ) -> AsyncIterator[pb.StreamTradesResponse]:
        """Stream the trades of a result."""
        async for rows in self._rows(request, "trades"):
            yield pb.StreamTradesResponse(**rows)

    async def StreamFills(
        self, request: pb.StreamFillsRequest, context: _Context
    ) -> AsyncIterator[pb.StreamFillsResponse]:
        """Stream the fills of a result."""
        async for rows in self._rows(request, "fills"):
            yield pb.StreamFillsResponse(**rows)

    async def StreamEquity(
        self, request: pb.StreamEquityRequest, context: _Context
    ) -> AsyncIterator[pb.StreamEquityResponse]:
        """Stream the equity of a result, whole or thinned."""
        if request.HasField("max_points"):
            yield await self._thinned(request)
            return
        async for rows in self._rows(request, "equity"):
            yield pb.StreamEquityResponse(**rows)

    async def UpdateRetention(
        self, request: pb.UpdateRetentionRequest, context: _Context
    ) -> pb.UpdateRetentionResponse:
        """Give a result a TTL from now, pin it or unpin it."""
        return await self._parts.retention.update(request)

    async def GetRetentionPolicy(
        self, request: pb.GetRetentionPolicyRequest, context: _Context
    ) -> pb.GetRetentionPolicyResponse:
        """Get the tenant's policy and what it keeps now."""
        return await self._parts.retention.get_policy()

    async def SetRetentionPolicy(
        self, request: pb.SetRetentionPolicyRequest, context: _Context
    ) -> pb.SetRetentionPolicyResponse:
        """Replace the tenant's policy."""
        return await self._parts.retention.set_policy(request)

    async def PreviewRetention(
        self, request: pb.PreviewRetentionRequest, context: _Context
    ) -> pb.PreviewRetentionResponse:
        """Tell what would go now."""
        return await self._parts.retention.preview(request)

    async def ListRetentionAudit(
        self, request: pb.ListRetentionAuditRequest, context: _Context
    ) -> pb.ListRetentionAuditResponse:
        """List what went, newest first."""
        return await self._parts.retention.list_audit(request)

    async def DeleteResult(self, request: pb.DeleteResultRequest, context: _Context) -> pb.DeleteResultResponse:
        """Delete a result."""
        found = Violations()
        key = _key(request.result_id, found)
        found.check(request.tombstone_fence >= 0, "tombstone_fence", "must be 0 or more")
        found.raise_if_any()
        fence = request.tombstone_fence if caller_is_service.get() else 0
        return pb.DeleteResultResponse(deleted=await self._parts.store.delete(key, fence))

    async def _begin(self, requests: AsyncIterator[pb.SaveResultRequest]) -> pb.SaveResultBegin:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("payload") != "begin":
            raise _invalid("begin", "must be the first message")
        found = Violations()
        _key(first.begin.header.result_id, found, "begin.header.result_id")
        found.check(first.begin.fence >= 1, "begin.fence", "must be 1 or more")
        statistics = first.begin.header.statistics
        finite = all(math.isfinite(value) for value in statistics.values())
        found.check(finite, "begin.header.statistics", "must be finite: leave undefined ones out")
        if first.begin.HasField("ttl"):
            within = 1 <= messages.seconds(first.begin.ttl) <= LONGEST_TTL_S
            found.check(within, "begin.ttl", "must be 1 s .. 10 years")
        found.raise_if_any()
        return first.begin

    async def _commit(
        self, begin: pb.SaveResultBegin, key: ResultKey, save: Save, checksum: str
    ) -> tuple[StoredResult, bool]:
        header = begin.header
        rows = {"trades": header.trade_rows, "fills": header.fill_rows, "equity": header.equity_rows}
        save.check(rows, checksum)
        commit = messages.commit_from_proto(
            begin, key, save_id=save.save_id, checksum=checksum, payload_bytes=save.stored_bytes
        )
        try:
            return await save.commit(commit)
        except StaleFenceError:
            raise Aborted("a newer attempt holds this result", reason="STALE_FENCE") from None

    async def _get(self, result_id: str) -> StoredResult:
        found = Violations()
        key = _key(result_id, found)
        found.raise_if_any()
        stored = await self._parts.store.get(key)
        if stored is None:
            raise messages.result_not_found(key.result_id)
        self._parts.read(key)
        return stored

    async def _several(self, result_ids: Sequence[str], *, least: int) -> list[StoredResult]:
        ids = _ids(result_ids, least, _MOST_COMPARED)
        stored = {one.key.result_id: one for one in await self._parts.store.get_several(current_tenant.get(), ids)}
        for result_id in ids:
            if result_id not in stored:
                raise messages.result_not_found(result_id)
            self._parts.read(stored[result_id].key)
        return [stored[result_id] for result_id in ids]

    async def _rows(self, request: Any, kind: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the fields of one response after another."""
        stored = await self._get(request.result_id)
        total = messages.total_rows(stored, kind)
        if not 0 <= request.start_row <= total:
            raise _invalid("start_row", f"must be 0..{total}")
        async for chunk in read_chunks(self._parts.store, self._parts.cache, stored, kind, request.start_row, total):
            self._parts.check_running()
            columns = await _unpacked(chunk, kind)
            skip = max(request.start_row - chunk.first_row, 0)
            if skip:
                columns = {name: column[skip:] for name, column in columns.items()}
            next_row = chunk.first_row + chunk.row_count
            yield {kind: message_of(columns, _COLUMNS[kind]), "next_row": next_row, "total_rows": total}

    async def _columns(self, stored: StoredResult, kind: str) -> AsyncIterator[dict[str, Column]]:
        """Yield all rows, stretch after stretch."""
        total = messages.total_rows(stored, kind)
        async for chunk in read_chunks(self._parts.store, self._parts.cache, stored, kind, 0, total):
            self._parts.check_running()
            yield await _unpacked(chunk, kind)

    async def _thinned(self, request: pb.StreamEquityRequest) -> pb.StreamEquityResponse:
        found = Violations()
        least, most = _POINTS
        found.check(least <= request.max_points <= most, "max_points", f"must be {least}..{most:,}")
        found.check(request.start_row == 0, "start_row", "must be 0 with max_points")
        found.raise_if_any()
        stored = await self._get(request.result_id)
        total = messages.total_rows(stored, "equity")
        thinner = Thinner(total, request.max_points)
        async for columns in self._columns(stored, "equity"):
            thinner.feed(columns)
        kept: Any = message_of(thinner.finish(), result_pb2.EquityColumns)
        return pb.StreamEquityResponse(equity=kept, next_row=total, total_rows=total)


async def _add(save: Save, kind: str, message: Message) -> None:
    rows, sent = check_columns(message, kind), message.SerializeToString(deterministic=True)
    large = len(sent) > _IN_THREAD_BYTES
    packed = await asyncio.to_thread(pack_columns, message) if large else pack_columns(message)
    await save.add(kind, rows, sent, packed)


async def _unpacked(chunk: Chunk, kind: str) -> dict[str, Column]:
    if not chunk.packed:
        return columns_from_message(_COLUMNS[kind].FromString(chunk.payload))
    if len(chunk.payload) * 4 > _IN_THREAD_BYTES:
        return await asyncio.to_thread(unpack_columns, chunk.payload, _COLUMNS[kind])
    return unpack_columns(chunk.payload, _COLUMNS[kind])


def _key(result_id: str, found: Violations, field: str = "result_id") -> ResultKey:
    return ResultKey(current_tenant.get(), id_from_proto(result_id, field, found))


def _ids(result_ids: Sequence[str], least: int, most: int) -> list[str]:
    found = Violations()
    ids = [id_from_proto(one, f"result_ids[{index}]", found) for index, one in enumerate(result_ids[:most])]
    within = least <= len(result_ids) <= most and len(set(ids)) == len(ids)
    found.check(within, "result_ids", f"must be {least}..{most} different results")
    found.raise_if_any()
    return ids


def _invalid(field: str, description: str) -> InvalidArgument:
    return InvalidArgument.of(FieldViolation(field, description))
