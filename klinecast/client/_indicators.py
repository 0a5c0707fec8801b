"""The indicators of the data service."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import grpc
import numpy as np

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.api.data.v1.data_service_pb2_grpc import DataServiceStub
from klinecast.client._calls import Caller
from klinecast.columns import Column, encode_columns, read_column
from klinecast.convert.indicators import (
    indicator_key_from_proto,
    indicator_key_to_proto,
    indicator_to_proto,
    series_without_interval,
)
from klinecast.convert.market import series_to_proto, timestamp_to_proto
from klinecast.convert.models import optional_field
from klinecast.errors import Aborted
from klinecast.indicators import Indicator, IndicatorKey
from klinecast.models import IndicatorBatch, IndicatorSeriesSummary, IngestSummary, LoadedIndicators, RejectedKline
from klinecast.series import SeriesKey

MAX_BATCH = 32_768
_LOAD_TRIES = 5
_ON_INVALID = {"REJECT": pb.ON_INVALID_REJECT, "FAIL": pb.ON_INVALID_FAIL}


class IndicatorCalls:
    """RPCs of DataService about indicators."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        self._stub = DataServiceStub(channel)
        self._caller = caller

    def ingest(self, series: IndicatorKey, batches: Iterable[tuple[Column, Column]], on_invalid: str) -> IngestSummary:
        """Send batches of open times and values as one ingest."""
        requests = _ingest_requests(series, batches, on_invalid)
        response = self._caller.upload(self._stub.IngestIndicators, requests)
        rejections = tuple(
            RejectedKline(one.index, one.field, one.reason, one.open_time_ms) for one in response.rejections
        )
        counts = (response.inserted, response.updated, response.unchanged, response.rejected)
        return IngestSummary(*counts, response.revision, rejections)

    def stream(
        self,
        series: SeriesKey | IndicatorKey,
        indicators: Sequence[Indicator],
        start_ms: int,
        end_ms: int,
        *,
        batch_size: int,
        tenant: str | None = None,
    ) -> Iterator[IndicatorBatch]:
        """Yield batches; a cut stream goes on where it was cut, at the same revisions, without later appends."""
        request = pb.StreamIndicatorsRequest(
            series=series_to_proto(series) if isinstance(series, SeriesKey) else series_without_interval(series),
            start_time=timestamp_to_proto(start_ms),
            end_time=timestamp_to_proto(end_ms),
            batch_size=batch_size,
            indicators=map(indicator_to_proto, indicators),
        )

        def from_last() -> Iterator[pb.StreamIndicatorsResponse]:
            return self._caller.stream(self._stub.StreamIndicators, request, tenant=tenant)

        revision: int | None = None
        for response in self._caller.resuming(from_last):
            if not request.HasField("resume_from_ms"):
                revision = _pin(request, response, end_ms)
            request.resume_from_ms = response.next_open_time_ms
            yield IndicatorBatch(
                read_column(response.batch, "open_time_ms"),
                {column.name: read_column(column, "value") for column in response.batch.columns},
                response.next_open_time_ms,
                response.rows_sent,
                response.rows_total,
                revision,
                dict(request.expected_indicator_revisions),
            )
            if response.rows_sent >= response.rows_total:
                return

    def load(
        self,
        series: SeriesKey | IndicatorKey,
        indicators: Sequence[Indicator],
        start_ms: int,
        end_ms: int,
        tenant: str | None,
    ) -> LoadedIndicators:
        """Read a range whole, from the start again when it was rewritten meanwhile."""
        for attempt in range(_LOAD_TRIES):
            try:
                found = self.stream(series, indicators, start_ms, end_ms, batch_size=MAX_BATCH, tenant=tenant)
                batches = list(found)
                break
            except Aborted:
                if attempt == _LOAD_TRIES - 1:
                    raise
                time.sleep(0.05 * (attempt + 1))
        columns = {name: np.concatenate([one.columns[name] for one in batches]) for name in batches[0].columns}
        times = np.concatenate([one.open_time_ms for one in batches])
        return LoadedIndicators(times, columns, batches[0].revision, batches[0].indicator_revisions)

    def list_series(self, venue: str, symbol: str) -> Iterator[IndicatorSeriesSummary]:
        """Yield all stored indicator series, page by page."""
        request = pb.ListIndicatorSeriesRequest(venue=venue, symbol=symbol, page_size=1000)
        while True:
            page = self._caller.unary(self._stub.ListIndicatorSeries, request)
            for one in page.series:
                first, last = (optional_field(one, f"{name}_open_time_ms") for name in ("first", "last"))
                yield IndicatorSeriesSummary(
                    indicator_key_from_proto(one.series),
                    None if first is None else int(first),
                    None if last is None else int(last),
                    one.value_count,
                    one.revision,
                )
            request.page_token = page.next_page_token
            if not request.page_token:
                return


def _pin(request: pb.StreamIndicatorsRequest, response: pb.StreamIndicatorsResponse, end_ms: int) -> int | None:
    """Make a resumed stream go on at the revisions of this first message, without later appends."""
    request.expected_indicator_revisions.update(response.indicator_revisions)
    request.end_time.CopyFrom(timestamp_to_proto(min(end_ms, response.last_open_time_ms + 1)))
    request.source_interval = response.source_interval
    if not response.HasField("revision"):
        return None
    request.expected_revision = response.revision
    return response.revision


def _ingest_requests(
    series: IndicatorKey, batches: Iterable[tuple[Column, Column]], on_invalid: str
) -> Iterator[pb.IngestIndicatorsRequest]:
    request = pb.IngestIndicatorsRequest(series=indicator_key_to_proto(series), on_invalid=_ON_INVALID[on_invalid])
    for times, values in batches:
        for start in range(0, len(times), MAX_BATCH):
            part = slice(start, start + MAX_BATCH)
            encode_columns(request.batch, {"open_time_ms": times[part], "value": values[part]})
            yield request
            request = pb.IngestIndicatorsRequest()
    if request.HasField("series"):
        yield request
