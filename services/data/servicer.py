"""DataService: requests in, domain calls, messages out. Knows no SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1 import data_service_pb2_grpc, series_summary_pb2
from klinecast.columns import message_bytes
from klinecast.convert.checks import check_from_proto, check_to_proto
from klinecast.convert.data import (
    KlineQuery,
    delete_request_from_proto,
    gaps_request_from_proto,
    klines_from_proto,
    list_request_from_proto,
    query_from_proto,
    range_from_proto,
    required_series,
)
from klinecast.convert.market import INTERVAL_TO_PROTO, MAX_TIME_MS, MIN_TIME_MS, series_to_proto
from klinecast.errors import FieldViolation, InvalidArgument
from klinecast.interval import Interval
from klinecast.series import SeriesKey
from klinecast.types import MarketType
from services.data.catalog import Catalog, Gap, SeriesRecord, series_not_found
from services.data.checking import FlawStore, check_series
from services.data.indicators.rpcs import IndicatorRpcs
from services.data.ingest import Ingest, KlineWriter
from services.data.stream import KlinesMessage, KlineStreams
from services.data.telemetry import DataTelemetry
from services.runtime.ahead import read_ahead
from services.runtime.paging import Cursor, encode_page_token, read_page_token, require_text
from services.runtime.tenancy import current_tenant

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_DEFAULT_PAGE = 100
_SERIES_LIST, _GAP_LIST = "series", "gaps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the servicer works with."""

    catalog: Catalog
    writer: KlineWriter
    streams: KlineStreams
    flaws: FlawStore
    indicators: IndicatorRpcs
    telemetry: DataTelemetry
    check_running: Callable[[], None]


class DataServicer(data_service_pb2_grpc.DataServiceServicer):
    """The RPCs of DataService."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def IngestKlines(
        self, request_iterator: AsyncIterator[pb.IngestKlinesRequest], context: _Context
    ) -> pb.IngestKlinesResponse:
        """Store batch after batch; batches before a failure stay stored."""
        ingest: Ingest | None = None
        try:
            async with aclosing(read_ahead(request_iterator)) as requests:
                async for request in requests:
                    self._parts.check_running()
                    if ingest is None:
                        ingest = self._open_ingest(request)
                    elif request.HasField("series") and required_series(request.series) != ingest.key:
                        raise InvalidArgument.of(FieldViolation("series", "must be the series of the first message"))
                    await ingest.add(klines_from_proto(request.batch))
        finally:
            if ingest is not None:
                self._parts.telemetry.observe_ingest(ingest)
        if ingest is None:
            raise InvalidArgument.of(FieldViolation("series", "is required in the first message"))
        return _ingest_to_proto(ingest)

    async def StreamKlines(  # type: ignore[override]  # its messages go out as the bytes they are
        self, request: pb.StreamKlinesRequest, context: _Context
    ) -> AsyncIterator[bytes]:
        """Stream the klines of a range as the series stands now."""
        query = query_from_proto(request)
        async with aclosing(self._parts.streams.stream(query)) as messages:
            async for message in messages:
                self._parts.check_running()
                self._parts.telemetry.observe_streamed(message.count)
                yield _message_to_wire(message, query)

    async def IngestIndicators(
        self, request_iterator: AsyncIterator[pb.IngestIndicatorsRequest], context: _Context
    ) -> pb.IngestIndicatorsResponse:
        """Store the values of an indicator series."""
        return await self._parts.indicators.ingest(request_iterator)

    async def StreamIndicators(
        self, request: pb.StreamIndicatorsRequest, context: _Context
    ) -> AsyncIterator[pb.StreamIndicatorsResponse]:
        """Stream the indicators of a range."""
        async with aclosing(self._parts.indicators.stream(request)) as messages:
            async for message in messages:
                yield message

    async def ListIndicatorSeries(
        self, request: pb.ListIndicatorSeriesRequest, context: _Context
    ) -> pb.ListIndicatorSeriesResponse:
        """List stored indicator series."""
        return await self._parts.indicators.list_series(request)

    async def ListSeries(self, request: pb.ListSeriesRequest, context: _Context) -> pb.ListSeriesResponse:
        """List series by identity."""
        venue, symbol, size = list_request_from_proto(request, default_size=_DEFAULT_PAGE)
        after = read_page_token(request.page_token, current_tenant.get(), _SERIES_LIST, _series_place)
        records = await self._parts.catalog.list_series(venue=venue, symbol=symbol, after=after, limit=size + 1)
        token = ""
        if len(records) > size:
            key = records[size - 1].key
            cursor = [key.venue, key.market_type.value, key.symbol, key.interval.value]
            token = encode_page_token(current_tenant.get(), _SERIES_LIST, [*cursor])
        return pb.ListSeriesResponse(series=map(_record_to_proto, records[:size]), next_page_token=token)

    async def GetSeries(self, request: pb.GetSeriesRequest, context: _Context) -> pb.GetSeriesResponse:
        """Get one series."""
        key = required_series(request.series)
        record = await self._parts.catalog.get_series(key)
        if record is None:
            raise series_not_found(key)
        return pb.GetSeriesResponse(series=_record_to_proto(record))

    async def GetRange(self, request: pb.GetRangeRequest, context: _Context) -> pb.GetRangeResponse:
        """Tell what a range holds."""
        query, names = range_from_proto(request)
        opened = await self._parts.streams.open(query)
        return pb.GetRangeResponse(
            kline_count=opened.total,
            revision=opened.revision,
            rewrite_revision=opened.rewrite_revision,
            source_interval=INTERVAL_TO_PROTO[opened.source_interval],
            indicators=await self._parts.indicators.ranges(query, names),
        )

    async def ListGaps(self, request: pb.ListGapsRequest, context: _Context) -> pb.ListGapsResponse:
        """List gaps, oldest first."""
        key, start_ms, end_ms, size = gaps_request_from_proto(request, default_size=_DEFAULT_PAGE)
        last_ms = read_page_token(request.page_token, current_tenant.get(), f"{_GAP_LIST} {key}", _gap_place)
        if last_ms is not None:
            start_ms = max(start_ms, last_ms + 1)
        gaps = await self._parts.catalog.list_gaps(key, start_ms, end_ms, limit=size + 1)
        if gaps is None:
            raise series_not_found(key)
        token = ""
        if len(gaps) > size:
            token = encode_page_token(current_tenant.get(), f"{_GAP_LIST} {key}", [gaps[size - 1].last_ms])
        return pb.ListGapsResponse(gaps=map(_gap_to_proto, gaps[:size]), next_page_token=token)

    async def CheckSeries(self, request: pb.CheckSeriesRequest, context: _Context) -> pb.CheckSeriesResponse:
        """Report what is doubtful."""
        return check_to_proto(await check_series(check_from_proto(request), self._parts.streams, self._parts.flaws))

    async def DeleteKlines(self, request: pb.DeleteKlinesRequest, context: _Context) -> pb.DeleteKlinesResponse:
        """Delete a range."""
        key, start_ms, end_ms = delete_request_from_proto(request)
        deletion = await self._parts.catalog.delete_klines(key, start_ms, end_ms)
        if deletion is None:
            raise series_not_found(key)
        return pb.DeleteKlinesResponse(deleted=deletion.deleted, revision=deletion.revision)

    def _open_ingest(self, request: pb.IngestKlinesRequest) -> Ingest:
        if request.on_invalid not in pb.OnInvalid.values():
            raise InvalidArgument.of(FieldViolation("on_invalid", "must be a value of OnInvalid"))
        key = required_series(request.series)
        return Ingest(key, self._parts.writer, fail_on_invalid=request.on_invalid == pb.ON_INVALID_FAIL)


def _series_place(cursor: Cursor) -> SeriesKey:
    venue, market_type, symbol, interval = map(require_text, cursor)
    return SeriesKey(venue, MarketType(market_type), symbol, Interval(interval))


def _gap_place(cursor: Cursor) -> int:
    [last_ms] = cursor
    if not isinstance(last_ms, int) or not MIN_TIME_MS <= last_ms <= MAX_TIME_MS:
        raise ValueError
    return last_ms


def _message_to_wire(message: KlinesMessage, query: KlineQuery) -> bytes:
    head = pb.StreamKlinesResponse(
        next_open_time_ms=message.last_open_time_ms + 1,
        klines_sent=message.klines_sent,
        klines_total=message.klines_total,
    )
    if message.opened is not None:
        head.revision = message.opened.revision
        head.last_open_time_ms = message.opened.last_open_time_ms
        head.source_interval = INTERVAL_TO_PROTO[message.opened.source_interval]
    stretches = message.stretches
    if query.implied_open_times and message.has_implied_times(query.key.interval):
        head.first_open_time_ms = message.first_open_time_ms
        stretches = [{name: stretch[name] for name in query.columns} for stretch in stretches]
    return message_bytes(head, "batch", stretches)


def _ingest_to_proto(ingest: Ingest) -> pb.IngestKlinesResponse:
    return pb.IngestKlinesResponse(
        inserted=ingest.inserted,
        updated=ingest.updated,
        unchanged=ingest.unchanged,
        rejected=ingest.rejected,
        revision=ingest.revision,
        rejections=[
            pb.RejectedKline(index=one.index, field=one.field, reason=one.reason, open_time_ms=one.open_time_ms)
            for one in ingest.rejections
        ],
    )


def _record_to_proto(record: SeriesRecord) -> series_summary_pb2.SeriesSummary:
    return series_summary_pb2.SeriesSummary(
        series=series_to_proto(record.key),
        first_open_time_ms=record.first_ms,
        last_open_time_ms=record.last_ms,
        kline_count=record.kline_count,
        revision=record.revision,
        gap_count=record.gap_count,
    )


def _gap_to_proto(gap: Gap) -> series_summary_pb2.Gap:
    return series_summary_pb2.Gap(
        first_open_time_ms=gap.first_ms, last_open_time_ms=gap.last_ms, missing_count=gap.missing_count
    )
