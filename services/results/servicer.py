"""ResultsService: requests in, domain calls, messages out. Knows no SQL."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from klinecast.api.results.v1 import result_pb2, results_service_pb2_grpc
from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.convert.market import id_from_proto, page_size_from_proto
from klinecast.convert.results import check_columns, columns_from_message, columns_to_message
from klinecast.convert.violations import Violations
from klinecast.errors import Aborted, FieldViolation, InvalidArgument, NotFound
from services.results.cache import PayloadCache
from services.results.keeping import Listing, ResultStore, read_chunks
from services.results.saving import Chunk, Commit, ResultKey, Save, StaleFenceError, StoredResult
from services.runtime.paging import decode_page_token, encode_page_token
from services.runtime.tenancy import current_tenant

MAX_TTL_S = 10 * 366 * 86_400.0
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_COLUMNS: dict[str, Any] = {
    "trades": result_pb2.TradeColumns,
    "fills": result_pb2.FillColumns,
    "equity": result_pb2.EquityColumns,
}


class ResultsServicer(results_service_pb2_grpc.ResultsServiceServicer):
    """The RPCs of ResultsService."""

    def __init__(
        self,
        store: ResultStore,
        cache: PayloadCache,
        *,
        default_ttl_s: float,
        on_saved: Callable[[int], None],
        check_running: Callable[[], None],
    ) -> None:
        self._store = store
        self._cache = cache
        self._default_ttl_s = default_ttl_s
        self._on_saved = on_saved
        self._check_running = check_running

    async def SaveResult(
        self, requests: AsyncIterator[pb.SaveResultRequest], context: _Context
    ) -> pb.SaveResultResponse:
        """Store a result: all of it becomes visible at the commit, or none."""
        begin = await self._begin(requests)
        save, committed = Save(self._store), False
        try:
            async for request in requests:
                kind = request.WhichOneof("payload")
                if kind == "commit":
                    stored, is_new = await self._commit(begin, save, request.commit.checksum)
                    committed = is_new
                    if is_new:
                        self._on_saved(stored.stored_bytes)
                    return pb.SaveResultResponse(result=_result_to_proto(stored), stored=is_new)
                if kind not in _COLUMNS:
                    raise _invalid("payload", "must be trades, fills, equity or commit after begin")
                message: Message = getattr(request, kind)
                await save.add(kind, check_columns(message, kind), message.SerializeToString(deterministic=True))
            raise _invalid("commit", "is missing: nothing was stored")
        finally:
            if save.flushed and not committed:
                await self._store.forget_save(save.save_id)

    async def GetResult(self, request: pb.GetResultRequest, context: _Context) -> pb.GetResultResponse:
        """Get the header of a result."""
        stored = await self._get(request.result_id)
        response = pb.GetResultResponse(result=_result_to_proto(stored))
        response.read_time.FromDatetime(stored.read_time)
        return response

    async def ListResults(self, request: pb.ListResultsRequest, context: _Context) -> pb.ListResultsResponse:
        """List results, newest first."""
        tenant, found = current_tenant.get(), Violations()
        page_size = page_size_from_proto(request, found, default=50)
        found.raise_if_any()
        cursor = decode_page_token(request.page_token, tenant, "results")
        listing = Listing(
            strategy=request.strategy,
            symbol=request.symbol,
            labels=dict(request.labels),
            page_size=page_size,
            after_time=datetime.fromisoformat(str(cursor[0])) if cursor else None,
            after_id=str(cursor[1]) if cursor else None,
        )
        page = await self._store.list(tenant, listing)
        response = pb.ListResultsResponse(results=map(_result_to_proto, page))
        if page:
            response.read_time.FromDatetime(page[-1].read_time)
        if len(page) == page_size:
            last = page[-1]
            cursor = [last.create_time.isoformat(), last.key.result_id]
            response.next_page_token = encode_page_token(tenant, "results", cursor)
        return response

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
        """Stream the equity of a result."""
        async for rows in self._rows(request, "equity"):
            yield pb.StreamEquityResponse(**rows)

    async def UpdateRetention(
        self, request: pb.UpdateRetentionRequest, context: _Context
    ) -> pb.UpdateRetentionResponse:
        """Give a result a TTL from now, pin it or unpin it."""
        found, kind = Violations(), request.WhichOneof("retention")
        key = _key(request.result_id, found)
        found.check(kind is not None or request.extend_only, "retention", "is required: ttl or pinned")
        found.check(kind != "pinned" or not request.extend_only, "extend_only", "goes with ttl")
        ttl_s = _ttl_from_proto(request.ttl, "ttl", found) if kind == "ttl" else self._default_ttl_s
        found.raise_if_any()
        pins = kind == "pinned" and request.pinned
        change = self._store.pin(key) if pins else self._store.set_ttl(key, ttl_s, extend_only=request.extend_only)
        stored = await change
        return pb.UpdateRetentionResponse(result=_result_to_proto(_present(stored, key)))

    async def DeleteResult(self, request: pb.DeleteResultRequest, context: _Context) -> pb.DeleteResultResponse:
        """Delete a result."""
        found = Violations()
        key = _key(request.result_id, found)
        found.check(request.tombstone_fence >= 0, "tombstone_fence", "must be 0 or more")
        found.raise_if_any()
        return pb.DeleteResultResponse(deleted=await self._store.delete(key, request.tombstone_fence))

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
            _ttl_from_proto(first.begin.ttl, "begin.ttl", found)
        found.raise_if_any()
        return first.begin

    async def _commit(self, begin: pb.SaveResultBegin, save: Save, checksum: str) -> tuple[StoredResult, bool]:
        header = begin.header
        rows = {"trades": header.trade_rows, "fills": header.fill_rows, "equity": header.equity_rows}
        save.check(rows, checksum)
        wire = header.SerializeToString(deterministic=True)
        commit = Commit(
            key=_key(header.result_id, Violations()),
            save_id=save.save_id,
            fence=begin.fence,
            ttl_s=_seconds(begin.ttl) if begin.HasField("ttl") else self._default_ttl_s,
            checksum=checksum,
            header=wire,
            strategy=header.config.strategy,
            symbols=[series.symbol for series in header.config.series],
            labels=dict(header.config.labels),
            statistics=dict(header.statistics),
            stored_bytes=save.stored_bytes + len(wire),
        )
        try:
            return await save.commit(commit)
        except StaleFenceError:
            raise Aborted("a newer attempt holds this result", reason="STALE_FENCE") from None

    async def _get(self, result_id: str) -> StoredResult:
        found = Violations()
        key = _key(result_id, found)
        found.raise_if_any()
        return _present(await self._store.get(key), key)

    async def _rows(self, request: Any, kind: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the fields of one response after another."""
        stored = await self._get(request.result_id)
        header = result_pb2.ResultHeader.FromString(stored.header)
        total = {"trades": header.trade_rows, "fills": header.fill_rows, "equity": header.equity_rows}[kind]
        if not 0 <= request.start_row <= total:
            raise _invalid("start_row", f"must be 0..{total}")
        async for chunk in read_chunks(self._store, self._cache, stored, kind, request.start_row, total):
            self._check_running()
            next_row = chunk.first_row + chunk.row_count
            yield {kind: _cut(chunk, kind, request.start_row), "next_row": next_row, "total_rows": total}


def _cut(chunk: Chunk, kind: str, start_row: int) -> Message:
    message: Message = _COLUMNS[kind].FromString(chunk.payload)
    skip = start_row - chunk.first_row
    if skip <= 0:
        return message
    rest: Message = _COLUMNS[kind]()
    columns_to_message(rest, {name: column[skip:] for name, column in columns_from_message(message).items()})
    return rest


def _key(result_id: str, found: Violations, field: str = "result_id") -> ResultKey:
    return ResultKey(current_tenant.get(), id_from_proto(result_id, field, found))


def _present(stored: StoredResult | None, key: ResultKey) -> StoredResult:
    if stored is None:
        raise NotFound(f"no result {key.result_id}", reason="RESULT_NOT_FOUND")
    return stored


def _ttl_from_proto(ttl: Duration, field: str, found: Violations) -> float:
    seconds = _seconds(ttl)
    found.check(1 <= seconds <= MAX_TTL_S, field, "must be 1 s .. 10 years")
    return seconds


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _result_to_proto(stored: StoredResult) -> result_pb2.Result:
    proto = result_pb2.Result(pinned=stored.pinned, stored_bytes=stored.stored_bytes)
    proto.header.ParseFromString(stored.header)
    proto.create_time.FromDatetime(stored.create_time)
    if not stored.pinned:
        proto.expire_time.FromDatetime(stored.expire_time)
    return proto


def _invalid(field: str, description: str) -> InvalidArgument:
    return InvalidArgument.of(FieldViolation(field, description))
