"""The RPCs of indicators: requests in, domain calls, messages out. Knows no SQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1 import indicator_pb2
from klinecast.columns import encode_columns
from klinecast.convert.data import KlineQuery, list_request_from_proto
from klinecast.convert.indicators import (
    indicator_key_to_proto,
    indicator_query_from_proto,
    market_key,
    required_indicator_key,
    values_from_proto,
)
from klinecast.convert.market import INTERVAL_TO_PROTO
from klinecast.errors import FieldViolation, InvalidArgument
from klinecast.indicators import IndicatorKey
from klinecast.types import MarketType
from services.data.indicators.ingest import IndicatorIngest
from services.data.indicators.series import IndicatorCatalog, IndicatorRecord, ValueReader, ValueWriter
from services.data.indicators.stream import IndicatorsMessage, IndicatorStreams
from services.runtime.ahead import read_ahead
from services.runtime.paging import Cursor, encode_page_token, read_page_token, require_text
from services.runtime.tenancy import current_tenant

_DEFAULT_PAGE = 100
_LIST = "indicators"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndicatorRpcs:
    """What DataService does about indicators."""

    catalog: IndicatorCatalog
    writer: ValueWriter
    reader: ValueReader
    streams: IndicatorStreams
    check_running: Callable[[], None]

    async def ingest(self, requests: AsyncIterator[pb.IngestIndicatorsRequest]) -> pb.IngestIndicatorsResponse:
        """Store batch after batch; batches before a failure stay stored."""
        ingest: IndicatorIngest | None = None
        async with aclosing(read_ahead(requests)) as ahead:
            async for request in ahead:
                self.check_running()
                if ingest is None:
                    ingest = self._open_ingest(request)
                elif request.HasField("series") and required_indicator_key(request.series) != ingest.key:
                    raise InvalidArgument.of(FieldViolation("series", "must be the series of the first message"))
                await ingest.add(values_from_proto(request.batch))
        if ingest is None:
            raise InvalidArgument.of(FieldViolation("series", "is required in the first message"))
        return _ingest_to_proto(ingest)

    async def stream(self, request: pb.StreamIndicatorsRequest) -> AsyncGenerator[pb.StreamIndicatorsResponse, None]:
        """Stream the indicators of a range."""
        async with aclosing(self.streams.stream(indicator_query_from_proto(request))) as messages:
            async for message in messages:
                self.check_running()
                yield _message_to_proto(message)

    async def ranges(self, query: KlineQuery, names: Sequence[str]) -> dict[str, pb.IndicatorRange]:
        """Tell what is held of stored series of a market."""
        ranges: dict[str, pb.IndicatorRange] = {}
        for name in names:
            snapshot = await self.reader.load_snapshot(market_key(query.key, name))
            if snapshot is not None:
                count, _ = await self.reader.count_values(snapshot, 0, query.end_ms - 1, 0)
                ranges[name] = pb.IndicatorRange(
                    value_count=count, revision=snapshot.revision, rewrite_revision=snapshot.rewrite_revision
                )
        return ranges

    async def list_series(self, request: pb.ListIndicatorSeriesRequest) -> pb.ListIndicatorSeriesResponse:
        """List stored indicator series by identity."""
        venue, symbol, size = list_request_from_proto(request, default_size=_DEFAULT_PAGE)
        after = read_page_token(request.page_token, current_tenant.get(), _LIST, _place)
        records = await self.catalog.list_indicator_series(venue=venue, symbol=symbol, after=after, limit=size + 1)
        token = ""
        if len(records) > size:
            key = records[size - 1].key
            place = [key.venue, key.market_type.value, key.symbol, key.name]
            token = encode_page_token(current_tenant.get(), _LIST, [*place])
        return pb.ListIndicatorSeriesResponse(series=map(_record_to_proto, records[:size]), next_page_token=token)

    def _open_ingest(self, request: pb.IngestIndicatorsRequest) -> IndicatorIngest:
        if request.on_invalid not in pb.OnInvalid.values():
            raise InvalidArgument.of(FieldViolation("on_invalid", "must be a value of OnInvalid"))
        key = required_indicator_key(request.series)
        return IndicatorIngest(key, self.writer, fail_on_invalid=request.on_invalid == pb.ON_INVALID_FAIL)


def _place(cursor: Cursor) -> IndicatorKey:
    venue, market_type, symbol, name = map(require_text, cursor)
    return IndicatorKey(venue, MarketType(market_type), symbol, name)


def _message_to_proto(message: IndicatorsMessage) -> pb.StreamIndicatorsResponse:
    response = pb.StreamIndicatorsResponse(
        next_open_time_ms=int(message.columns["open_time_ms"][-1]) + 1,
        rows_sent=message.rows_sent,
        rows_total=message.rows_total,
    )
    if message.opened is not None:
        response.last_open_time_ms = message.opened.last_open_time_ms
        response.indicator_revisions.update(message.opened.indicator_revisions)
        if message.opened.revision is not None:
            response.revision = message.opened.revision
        if message.opened.source_interval is not None:
            response.source_interval = INTERVAL_TO_PROTO[message.opened.source_interval]
    for name, values in message.columns.items():
        if name == "open_time_ms":
            encode_columns(response.batch, {name: values})
        else:
            encode_columns(response.batch.columns.add(name=name), {"value": values})
    return response


def _ingest_to_proto(ingest: IndicatorIngest) -> pb.IngestIndicatorsResponse:
    return pb.IngestIndicatorsResponse(
        inserted=ingest.inserted,
        updated=ingest.updated,
        unchanged=ingest.unchanged,
        rejected=ingest.rejected,
        revision=ingest.revision,
        rejections=[
            pb.RejectedIndicatorValue(
                index=one.index, field=one.field, reason=one.reason, open_time_ms=one.open_time_ms
            )
            for one in ingest.rejections
        ],
    )


def _record_to_proto(record: IndicatorRecord) -> indicator_pb2.IndicatorSeriesSummary:
    return indicator_pb2.IndicatorSeriesSummary(
        series=indicator_key_to_proto(record.key),
        first_open_time_ms=record.first_ms,
        last_open_time_ms=record.last_ms,
        value_count=record.value_count,
        revision=record.revision,
    )
